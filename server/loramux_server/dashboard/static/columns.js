// The table's columns: how each displays and sorts a row.

import { DASH, count, dollars, ratio, seconds, share } from "./format.js";
import { saving } from "./rows.js";

const MODES = { price_list: "price list", gpu_hour: "engine time" };

const figure = (path) => (row) => path.split(".").reduce((value, name) => value?.[name], row.group) ?? null;
const column = (id, group, title, value, show, rest = {}) => ({ id, group, title, value, show, ...rest });

function interval(row, mode) {
  const found = saving(row, mode);
  if (!found) return DASH;
  const { ratio: middle, low, high } = found.ratio;
  return `${ratio(middle)} [${ratio(low)}, ${ratio(high)}]`;
}

// Cheaper or more expensive only if the interval excludes 1.
function verdict(row, mode) {
  const found = saving(row, mode)?.ratio;
  if (!found || (found.low <= 1 && found.high >= 1)) return "";
  return found.high < 1 ? "better" : "worse";
}

const requestCost = (mode) => (row) => figure(`cost.${mode}.usd_per_request`)(row);
// A cost of 0 means a missing price.
const priced = (value) => (value === 0 ? DASH : dollars(value));

function breakEven(row, mode) {
  const requests = saving(row, mode)?.requests ?? null;
  return requests === "never" ? Infinity : requests;
}

export const columns = [
  column("requests", "Traffic", "Requests", (row) => row.group?.requests ?? 0, count),
  column("errors", "Traffic", "Errors", (row) => row.errors, share, { hint: (row) => row.outcomes }),
  column("live", "Traffic", "Live", (row) => row.live, count),
  column("where", "Traffic", "In the engine", (row) => row.rank ?? null, (_, row) => row.where ?? "always", { isText: true }),
  column("total", "Cost", "Total", (row, mode) => figure(`cost.${mode}.usd`)(row), priced),
  column("by_time", "Cost", "Request, by engine time", requestCost("gpu_hour"), priced),
  column("by_list", "Cost", "Request, by price list", requestCost("price_list"), priced),
  column("saving", "Relative to the base", "Saving per request", (row, mode) => saving(row, mode)?.saving_usd_per_request ?? null, dollars, { verdict }),
  column("ratio", "Relative to the base", "Cost ratio", (row, mode) => saving(row, mode)?.ratio.ratio ?? null, (_, row, mode) => interval(row, mode), { verdict }),
  column("break_even", "Relative to the base", "Break-even requests", breakEven, (value) => (value === Infinity ? "never" : count(value))),
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
