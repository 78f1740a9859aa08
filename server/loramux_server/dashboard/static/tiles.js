// The summary tiles: totals over all routes.

import { count, dollars, DASH, share } from "./format.js";

const list = document.getElementById("tiles");
const hint = document.getElementById("unpriced");

export function show({ report, live }) {
  const total = report.total;
  const cost = (mode) => total?.cost[mode].usd ?? 0;
  const { engine } = report;
  fill([
    tile("live", "Live requests", sum(live), count, `${count(live.base ?? 0)} base, ${count(live.adapter ?? 0)} adapters`),
    tile("requests", "Requests", total?.requests ?? 0, count, failures(total)),
    tile("tokens", "Tokens", total ? total.tokens.input + total.tokens.output : 0, count, tokens(total)),
    tile("gpu_hour", "Cost by engine time", cost("gpu_hour") || null, dollars, "used by requests"),
    tile("price_list", "Cost by price list", cost("price_list") || null, dollars, "for their tokens"),
    tile("busy", "Engine busy", engine.seconds ? engine.busy_seconds / engine.seconds : null, share, "of its running time"),
    tile("idle", "Idle cost", engine.idle_usd || null, dollars, "not used by requests"),
  ]);
  showHint(total, cost, engine);
}

const sum = (live) => Object.values(live).reduce((a, b) => a + b, 0);
const tile = (id, title, value, show, detail) => ({ id, title, value, text: show(value), detail });

function failures(total) {
  if (!total) return "none in this range";
  const { failed = 0, refused = 0, cancelled = 0 } = total.outcomes;
  return `${count(failed)} failed, ${count(refused)} refused, ${count(cancelled)} cancelled`;
}

const tokens = (total) =>
  total ? `${count(total.tokens.input)} in (${count(total.tokens.cached)} cached), ${count(total.tokens.output)} out` : DASH;

// Elements are reused, so that screen readers keep their position on a refresh.
function fill(tiles) {
  if (!list.children.length) list.append(...tiles.map(empty));
  for (const { id, title, value, text, detail } of tiles) {
    const box = document.getElementById(`tile-${id}`);
    const [term, figure, more] = box.children;
    term.textContent = title;
    figure.textContent = text;
    figure.dataset.value = value ?? "";
    more.textContent = detail;
  }
}

function empty({ id }) {
  const box = document.createElement("div");
  box.id = `tile-${id}`;
  box.append(...["dt", "dd", "dd"].map((tag) => document.createElement(tag)));
  box.lastChild.className = "quiet";
  return box;
}

function showHint(total, cost, engine) {
  const free = [
    cost("price_list") === 0 && "tokens (LORAMUX_PRICES__BASE__INPUT and LORAMUX_PRICES__BASE__OUTPUT, in dollars per million)",
    cost("gpu_hour") === 0 && engine.idle_usd === 0 && "engine time (LORAMUX_PRICES__GPU_HOUR, in dollars per hour)",
  ].filter(Boolean);
  hint.hidden = Boolean(total && !free.length);
  hint.textContent = total
    ? `No prices are set for ${free.join(" or for ")}, so these costs are unknown.`
    : "No requests in this range.";
}
