// The page: asks the server now and then, and shows what it says.

import * as api from "./api.js";
import * as charts from "./charts.js";
import { dated, time } from "./format.js";
import * as jobs from "./jobs.js";
import { mode, range, watch } from "./range.js";
import { rows } from "./rows.js";
import * as table from "./table.js";
import * as theme from "./theme.js";
import * as tiles from "./tiles.js";

const PAUSE = 5000;
// A server whose ledger is large is asked less often: it spends a tenth of its time on this page at most.
const SPARING = 10;
const ADAPTERS_AGE = 60_000;

const find = (id) => document.getElementById(id);
const state = { isPaused: false, asked: null, timer: 0, shown: null, registered: [], registeredAt: -Infinity, trouble: "", hasJobs: true };

function start() {
  theme.watch(() => state.shown && drawCharts());
  table.build(announce);
  watch(() => refresh("Showing another range or cost."));
  find("pause").addEventListener("click", () => pause(!state.isPaused));
  find("key-form").addEventListener("submit", useKey);
  find("forget").addEventListener("click", forgetKey);
  for (const button of document.querySelectorAll("input[name=mode]")) button.addEventListener("change", () => (state.modeIsChosen = true));
  // Numbers that change by themselves are motion, too.
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) pause(true);
  document.addEventListener("visibilitychange", () => document.hidden || state.isPaused || refresh());
  refresh();
}

const announce = (words) => (find("news").textContent = words);

async function refresh(words) {
  state.asked?.abort();
  clearTimeout(state.timer);
  const asked = (state.asked = new AbortController());
  const begun = performance.now();
  try {
    await update(range(), asked.signal);
    if (words) announce(`${words} Updated.`);
  } catch (error) {
    if (asked.signal.aborted) return;
    fail(error);
  }
  const pause = Math.max(PAUSE, SPARING * (performance.now() - begun));
  if (!state.isPaused && find("key-form").hidden) state.timer = setTimeout(nextTime, pause);
}

// A page that nobody looks at asks nothing.
const nextTime = () => document.hidden || refresh();

async function update(asked, signal) {
  const [facts, readiness] = await Promise.all([api.figures(asked, signal), api.readiness(signal)]);
  await lookUp(signal);
  if (signal.aborted) return;
  recover();
  state.shown = { facts, rows: rows(facts, state.registered), by: asked.by, hours: null };
  if (!state.modeIsChosen) chooseMode(facts.report.total);
  showFigures(readiness);
  state.shown.hours = await api.hours(asked, signal);
  if (signal.aborted) return;
  drawCharts();
  if (!state.hasJobs) return;
  const found = await api.jobs(signal);
  state.hasJobs = found !== null;
  jobs.show(found);
}

// What seldom changes and may be long: the names.
async function lookUp(signal) {
  if (performance.now() - state.registeredAt < ADAPTERS_AGE) return;
  const [base, registered] = await Promise.all([api.baseName(signal), api.adapters(signal)]);
  Object.assign(state, { registered, registeredAt: performance.now() });
  find("base").textContent = base ?? "loramux";
  document.title = `${base ?? "server"} – loramux`;
}

// Where only tokens have a price, costs are shown by it.
function chooseMode(total) {
  const costs = (name) => (total?.cost[name].nanodollars ?? 0) > 0;
  const best = !costs("gpu_hour") && costs("price_list") ? "price_list" : "gpu_hour";
  find("range").elements.mode.value = best;
}

function showFigures({ ready, words }) {
  const { facts, rows } = state.shown;
  Object.assign(find("ready"), { textContent: words }).dataset.state = ready ? "ready" : "not-ready";
  tiles.show(facts);
  table.show(rows, mode());
  const { since, until } = facts.report;
  find("shown").textContent = `${dated(new Date(since))} to ${dated(new Date(until))}`;
  find("updated").textContent = `Updated ${time(new Date())}`;
  find("content").setAttribute("aria-busy", "false");
}

function drawCharts() {
  if (state.shown?.hours) charts.show(state.shown, mode());
}

function recover() {
  if (state.trouble) announce("The server answers again.");
  state.trouble = "";
  find("trouble").hidden = true;
  find("key-form").hidden = true;
  find("content").hidden = false;
  find("forget").hidden = !api.key();
  document.body.classList.remove("stale");
}

// Old numbers stay, marked as old.
function fail(error) {
  if (error instanceof api.Refused && (error.status === 401 || error.status === 403)) return askForKey(error);
  const said = error instanceof api.Refused ? error.message : "The server does not answer.";
  const old = state.shown ? ` The numbers are old: ${find("updated").textContent.toLowerCase()}.` : "";
  state.trouble ||= time(new Date());
  const words = `${said}${old} (Since ${state.trouble}.)`;
  const trouble = find("trouble");
  if (trouble.textContent !== words) trouble.textContent = words;
  trouble.hidden = false;
  document.body.classList.toggle("stale", Boolean(state.shown));
  Object.assign(find("ready"), { textContent: "no answer" }).dataset.state = "not-ready";
}

function askForKey(error) {
  find("key-reason").textContent = api.key() ? error.message : "This server answers to administrators' keys.";
  api.forget();
  find("trouble").hidden = true;
  find("key-form").hidden = false;
  find("content").hidden = true;
  find("forget").hidden = true;
  Object.assign(find("ready"), { textContent: "needs a key" }).dataset.state = "unknown";
  find("updated").textContent = "";
  find("key").focus();
}

function useKey(event) {
  event.preventDefault();
  api.keep(find("key").value.trim());
  find("key").value = "";
  state.registeredAt = -Infinity;
  refresh();
}

// All that was shown goes with the key.
function forgetKey() {
  api.forget();
  location.reload();
}

function pause(isPaused) {
  state.isPaused = isPaused;
  const button = find("pause");
  button.setAttribute("aria-pressed", String(isPaused));
  button.textContent = isPaused ? "Paused" : "Pause";
  clearTimeout(state.timer);
  if (!isPaused) refresh("Updates go on.");
  else announce("Updates are paused.");
}

start();
