// The table's columns: how each displays and sorts a row.

import { DASH, count, dollars, seconds, share } from "./format.js";

const MODES = { price_list: "price list", gpu_hour: "engine time" };

const figure = (path) => (row) => path.split(".").reduce((value, name) => value?.[name], row.group) ?? null;
const column = (id, group, title, value, show, rest = {}) => ({ id, group, title, value, show, ...rest });

// The last controlled result: of the same items or of random shares, unlike everything else in this table.
const controlled = (row) => row.group?.controlled ?? null;

function verdict(row) {
  const found = controlled(row);
  if (!found) return DASH;
  return found.is_current ? found.verdict : `${found.verdict} (another version)`;
}

function details(row) {
  const found = controlled(row);
  const unit = found?.kind === "job" ? "items" : "users or requests";
  return found && `${found.sentence} ${found.items} ${unit} each, ${found.version ?? "version removed"}. ${found.command}`;
}

// Unpriced requests have no cost, and are in no sum.
function unpriced(row, mode) {
  const found = figure(`cost.${mode}.unpriced_requests`)(row);
  return found ? `${count(found)} requests unpriced` : "";
}

const requestCost = (mode) => (row) => figure(`cost.${mode}.usd_per_request`)(row);

export const columns = [
  column("requests", "Traffic", "Requests", (row) => row.group?.requests ?? 0, count),
  column("errors", "Traffic", "Errors", (row) => row.errors, share, { hint: (row) => row.outcomes }),
  column("live", "Traffic", "Live", (row) => row.live, count),
  column("where", "Traffic", "In the engine", (row) => row.rank ?? null, (_, row) => row.where ?? "always", { isText: true }),
  column("total", "Cost", "Total", (row, mode) => figure(`cost.${mode}.usd`)(row), dollars, { hint: unpriced }),
  column("by_time", "Cost", "Request, by engine time", requestCost("gpu_hour"), dollars),
  column("by_list", "Cost", "Request, by price list", requestCost("price_list"), dollars),
  column("verdict", "Last controlled result", "Verdict", (row) => controlled(row)?.verdict ?? null, (_, row) => verdict(row), { isText: true, hint: details }),
  column("measured", "Last controlled result", "Measured", (row) => controlled(row)?.measured_at ?? null, (value) => value?.slice(0, 10) ?? DASH, { isText: true }),
  column("break_even", "Last controlled result", "Break-even by price list", (row) => controlled(row)?.break_even.sentence ?? null, (value) => value ?? DASH, { isText: true }),
  column("ttft50", "First token", "p50", figure("latency.first_token.p50"), seconds),
  column("ttft95", "First token", "p95", figure("latency.first_token.p95"), seconds),
  column("per_token", "Latency", "Per output token, p50", figure("latency.time_per_output_token.p50"), seconds),
  column("duration", "Latency", "Whole request, p95", figure("latency.duration.p95"), seconds),
  column("input", "Tokens", "Input", figure("tokens.input"), count),
  column("cached", "Tokens", "Cached", figure("tokens.cached"), count),
  column("output", "Tokens", "Output", figure("tokens.output"), count),
];

export const name = column("name", "", "Route", (row) => row.title, (value) => value, { isText: true });

export const modeName = (mode) => MODES[mode];
