// The summary tiles: totals over all routes.

import { count, dollars, DASH, share } from "./format.js";

const list = document.getElementById("tiles");
const hint = document.getElementById("unpriced");

export function show({ report, live }) {
  const total = report.total;
  const cost = (mode) => total?.cost[mode].usd ?? null;
  const { engine } = report;
  fill([
    tile("live", "Live requests", sum(live), count, `${count(live.base ?? 0)} base, ${count(live.adapter ?? 0)} adapters`),
    tile("requests", "Requests", total?.requests ?? 0, count, failures(total)),
    tile("tokens", "Tokens", total ? total.tokens.input + total.tokens.output : 0, count, tokens(total)),
    tile("gpu_hour", "Cost by engine time", cost("gpu_hour"), dollars, "used by requests"),
    tile("price_list", "Cost by price list", cost("price_list"), dollars, "for their tokens"),
    tile("busy", "Engine busy", engine.seconds ? engine.busy_seconds / engine.seconds : null, share, "of its running time"),
    tile("idle", "Idle cost", engine.idle_usd, dollars, "not used by requests"),
  ]);
  showHint(total, report.prices_set);
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

const PRICES = {
  price_list: "tokens (prices.base.input and prices.base.output in loramux.yaml, in dollars per million)",
  gpu_hour: "engine time (prices.gpu_hour, in dollars per hour)",
};
const MODES = { price_list: "price list", gpu_hour: "engine time" };

function showHint(total, isSet) {
  const unset = Object.keys(PRICES).filter((mode) => !isSet[mode]);
  const missing = unset.length ? [`No prices are set for ${unset.map((mode) => PRICES[mode]).join(" or for ")}.`] : [];
  const unpriced = Object.keys(MODES).filter((mode) => total?.cost[mode].unpriced_requests);
  const parts = unpriced.map((mode) => `${count(total.cost[mode].unpriced_requests)} by ${MODES[mode]}`);
  const unknown = parts.length ? [`Requests unpriced: ${parts.join(", ")}; their cost is unknown and in no sum.`] : [];
  const texts = total ? [...missing, ...unknown] : ["No requests in this range."];
  hint.hidden = !texts.length;
  hint.textContent = texts.join(" ");
}
