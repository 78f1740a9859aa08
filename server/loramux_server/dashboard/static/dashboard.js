// The page: polls the server and shows its responses.

import * as api from "./api.js";
import * as charts from "./charts.js";
import { dated, time } from "./format.js";
import * as experiments from "./experiments.js";
import * as jobs from "./jobs.js";
import * as keys from "./keys.js";
import { mode, range, watch } from "./range.js";
import { rows } from "./rows.js";
import * as table from "./table.js";
import * as theme from "./theme.js";
import * as tiles from "./tiles.js";

const MIN_INTERVAL = 5000;
// Slow responses are requested less often: the server spends at most a tenth of its time on this page.
const INTERVAL_FACTOR = 10;
const MAX_ADAPTERS_AGE = 60_000;

const find = (id) => document.getElementById(id);
const state = { isPaused: false, pending: null, timer: 0, shown: null, registered: [], registeredAt: -Infinity, failedSince: "", hasJobs: true };

function start() {
  theme.watch(() => state.shown && drawCharts());
  table.build(announce);
  watch(() => refresh("Selection changed."));
  keys.watch();
  find("pause").addEventListener("click", () => pause(!state.isPaused));
  find("key-form").addEventListener("submit", useKey);
  find("forget").addEventListener("click", forgetKey);
  for (const button of document.querySelectorAll("input[name=mode]")) button.addEventListener("change", () => (state.modeIsChosen = true));
  // Numbers that change by themselves count as motion.
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) pause(true);
  document.addEventListener("visibilitychange", () => document.hidden || state.isPaused || refresh());
  refresh();
}

const announce = (text) => (find("announcement").textContent = text);

async function refresh(reason) {
  state.pending?.abort();
  clearTimeout(state.timer);
  const pending = (state.pending = new AbortController());
  const startedAt = performance.now();
  try {
    await update(range(), pending.signal);
    if (reason) announce(`${reason} Updated.`);
  } catch (error) {
    if (pending.signal.aborted) return;
    fail(error);
  }
  const pause = Math.max(MIN_INTERVAL, INTERVAL_FACTOR * (performance.now() - startedAt));
  if (!state.isPaused && find("key-form").hidden) state.timer = setTimeout(refreshIfVisible, pause);
}

// A hidden page sends no requests.
const refreshIfVisible = () => document.hidden || refresh();

async function update(selected, signal) {
  const [facts, readiness] = await Promise.all([api.figures(selected, signal), api.readiness(signal)]);
  await loadNames(signal);
  if (signal.aborted) return;
  recover();
  state.shown = { facts, rows: rows(facts, state.registered), by: selected.by, hours: null };
  if (!state.modeIsChosen) chooseMode(facts.report.total);
  showFigures(readiness);
  state.shown.hours = await api.hours(selected, signal);
  if (signal.aborted) return;
  drawCharts();
  experiments.show(...(await Promise.all([api.experiments(signal), api.feedback(signal)])));
  keys.show(await api.keys(signal));
  if (!state.hasJobs) return;
  const found = await api.jobs(signal);
  state.hasJobs = found !== null;
  jobs.show(found);
}

// Names change rarely and may be many.
async function loadNames(signal) {
  if (performance.now() - state.registeredAt < MAX_ADAPTERS_AGE) return;
  const [base, registered] = await Promise.all([api.baseName(signal), api.adapters(signal)]);
  Object.assign(state, { registered, registeredAt: performance.now() });
  find("base").textContent = base ?? "loramux";
  document.title = `${base ?? "server"} – loramux`;
}

// If only tokens have a price, show costs by price list.
function chooseMode(total) {
  const costs = (name) => (total?.cost[name].nanodollars ?? 0) > 0;
  const best = !costs("gpu_hour") && costs("price_list") ? "price_list" : "gpu_hour";
  find("range").elements.mode.value = best;
}

function showFigures({ ready, text }) {
  const { facts, rows } = state.shown;
  Object.assign(find("ready"), { textContent: text }).dataset.state = ready ? "ready" : "not-ready";
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
  if (state.failedSince) announce("The server responds again.");
  state.failedSince = "";
  find("error").hidden = true;
  find("key-form").hidden = true;
  find("content").hidden = false;
  find("forget").hidden = !api.key();
  document.body.classList.remove("stale");
}

// Old numbers stay, marked as outdated.
function fail(error) {
  if (error instanceof api.ApiError && (error.status === 401 || error.status === 403)) return askForKey(error);
  const message = error instanceof api.ApiError ? error.message : "The server does not respond.";
  const old = state.shown ? ` The numbers are outdated: ${find("updated").textContent.toLowerCase()}.` : "";
  state.failedSince ||= time(new Date());
  const text = `${message}${old} (Since ${state.failedSince}.)`;
  const element = find("error");
  if (element.textContent !== text) element.textContent = text;
  element.hidden = false;
  document.body.classList.toggle("stale", Boolean(state.shown));
  Object.assign(find("ready"), { textContent: "no response" }).dataset.state = "not-ready";
}

function askForKey(error) {
  find("key-reason").textContent = api.key() ? error.message : "This server requires an admin API key.";
  api.removeKey();
  find("error").hidden = true;
  find("key-form").hidden = false;
  find("content").hidden = true;
  find("forget").hidden = true;
  Object.assign(find("ready"), { textContent: "API key required" }).dataset.state = "unknown";
  find("updated").textContent = "";
  find("key").focus();
}

function useKey(event) {
  event.preventDefault();
  api.setKey(find("key").value.trim());
  find("key").value = "";
  state.registeredAt = -Infinity;
  refresh();
}

// Reload, so that no data stays on the page.
function forgetKey() {
  api.removeKey();
  location.reload();
}

function pause(isPaused) {
  state.isPaused = isPaused;
  const button = find("pause");
  button.setAttribute("aria-pressed", String(isPaused));
  button.textContent = isPaused ? "Paused" : "Pause";
  clearTimeout(state.timer);
  if (!isPaused) refresh("Updates resumed.");
  else announce("Updates are paused.");
}

start();
