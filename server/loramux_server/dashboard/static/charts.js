// Charts over time, with Plotly. Its script is large, so it loads after the numbers.

import { count, dollars, moment, seconds } from "./format.js";

const SCRIPT = new URL("plotly.min.js", import.meta.url);
const find = (id) => document.getElementById(id);
let loading = null;
let drawn = "";

// Draws the charts if their data changed; `mode` is the cost mode.
export async function show({ hours, by }, mode) {
  const data = { hours, by, mode };
  const current = JSON.stringify([hours, mode, colours()]);
  if (current === drawn) return;
  drawn = current;
  titles(by);
  summarize(data);
  try {
    await (loading ??= load());
  } catch {
    [loading, drawn] = [null, ""]; // the next refresh tries again
    find("charts-error").textContent = "The charts' script could not be loaded; the numbers are in the table.";
    find("charts-error").hidden = false;
    return;
  }
  find("charts-error").hidden = true;
  draw(data);
}

function load() {
  return new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: SCRIPT, onload: resolve, onerror: reject });
    document.head.append(script);
  });
}

function titles(by) {
  const period = by === "day" ? "day (UTC)" : by;
  find("requests-title").textContent = `Requests by ${period}`;
  find("costs-title").textContent = `Cost by ${period}`;
  find("latency-title").textContent = `Time to first token by ${period}`;
}

function draw({ hours, by, mode }) {
  const look = colours();
  const bars = (of, name, colour, value) => ({ type: "bar", name, marker: { color: colour }, ...line(of, by, value) });
  const lines = (of, name, colour, quantile, dash) => ({
    type: "scatter", mode: "lines+markers", name: `${name} ${quantile}`, marker: { size: 5 },
    line: { color: colour, dash, width: 2 }, ...line(of, by, (group) => group.latency.first_token[quantile]),
  });
  const both = (make) => [make(hours.base, "base", look.base), make(hours.adapters, "adapters", look.adapters)];
  paint("requests", both((of, name, colour) => bars(of, name, colour, (group) => group.requests)), look, { barmode: "stack" });
  const costs = both((of, name, colour) => bars(of, name, colour, (group) => group.cost[mode].usd));
  paint("costs", hasCosts(hours, mode) ? costs : [], look, {
    barmode: "stack", yaxis: { tickprefix: "$" },
  });
  const quantiles = ["p50", "p95"].flatMap((quantile, number) =>
    both((of, name, colour) => lines(of, name, colour, quantile, number ? "dot" : "solid")));
  paint("latency", quantiles, look, { yaxis: { ticksuffix: " s", rangemode: "tozero" } });
}

// Without prices there is nothing to draw.
const hasCosts = (hours, mode) => [...hours.base, ...hours.adapters].some((group) => group.cost[mode].nanodollars > 0);

const line = (groups, by, value) => ({ x: groups.map((group) => start(group, by)), y: groups.map(value) });
// Local time without its zone, which Plotly would ignore.
const start = (group, by) => (by === "day" ? group.label.day : local(new Date(group.label.hour)));
const local = (date) => new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, 16);

function paint(id, traces, look, layout) {
  const { xaxis, yaxis, ...rest } = layout;
  const axis = { gridcolor: look.grid, zerolinecolor: look.grid, linecolor: look.grid, fixedrange: true };
  const isEmpty = traces.every((trace) => !trace.x.length);
  const note = { text: "no data in this range", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 };
  window.Plotly.react(find(`${id}-chart`), traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, dragmode: false,
    font: { color: look.text, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 56, r: 16, t: 44, b: 40 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, showlegend: true,
    hoverlabel: { bgcolor: look.panel, font: { color: look.text } }, bargap: 0.15,
    annotations: isEmpty ? [note] : [],
    ...rest,
    xaxis: { ...axis, visible: !isEmpty, ...xaxis },
    yaxis: { ...axis, visible: !isEmpty, rangemode: "tozero", ...yaxis },
  }, { displayModeBar: false, responsive: true });
}

// The charts as text, for screen readers too.
function summarize({ hours, by, mode }) {
  const sum = (groups, value) => groups.reduce((total, group) => total + value(group), 0);
  const both = (value, show) => `base ${show(sum(hours.base, value))}, adapters ${show(sum(hours.adapters, value))}`;
  const requests = (group) => group.requests;
  find("requests-summary").textContent = `Total: ${both(requests, count)}. ${peak(hours, by)}`;
  const costs = `Total: ${both((group) => group.cost[mode].usd, dollars)}.`;
  find("costs-summary").textContent = hasCosts(hours, mode) ? costs : "No costs in this range.";
  const last = (groups, name) => {
    const { p50, p95 } = groups.at(-1)?.latency.first_token ?? { p50: null, p95: null };
    return `${name} p50 ${seconds(p50)}, p95 ${seconds(p95)}`;
  };
  find("latency-summary").textContent = `Newest ${by} of each: ${last(hours.base, "base")}; ${last(hours.adapters, "adapters")}.`;
}

function peak(hours, by) {
  const sums = new Map();
  for (const group of [...hours.base, ...hours.adapters]) {
    sums.set(start(group, by), (sums.get(start(group, by)) ?? 0) + group.requests);
  }
  if (!sums.size) return "";
  const [at, requests] = [...sums].reduce((a, b) => (b[1] > a[1] ? b : a));
  return `Peak in one ${by}: ${count(requests)} at ${moment(new Date(at))}.`;
}

// The style sheet's present colours, light or dark.
function colours() {
  const probe = document.body.appendChild(document.createElement("span"));
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = { base: "series-base", adapters: "series-adapters", text: "text", grid: "line", panel: "panel" };
  const found = Object.fromEntries(Object.entries(names).map(([key, name]) => [key, read(name)]));
  probe.remove();
  return found;
}
