// Which stretch of time is shown.

const HOUR = 3600;
const LENGTHS = { hour: HOUR, day: 24 * HOUR, week: 7 * 24 * HOUR, month: 30 * 24 * HOUR };

const form = document.getElementById("range");
const custom = document.getElementById("custom");
const since = document.getElementById("since");
const until = document.getElementById("until");

// Longer ranges begin with a whole hour: the server keeps sums of those, and need not add up single requests.
export function range(now = Date.now() / 1000) {
  const name = form.elements.range.value;
  if (name === "custom") return chosen();
  const begin = now - LENGTHS[name];
  return { since: name === "hour" ? begin : Math.floor(begin / HOUR) * HOUR, by: name === "month" ? "day" : "hour" };
}

function chosen() {
  const [from, to] = [since, until].map((field) => new Date(field.value).getTime() / 1000);
  return { since: from, until: to, by: to - from > 10 * 24 * HOUR ? "day" : "hour" };
}

export const mode = () => form.elements.mode.value;

// Calls `changed` when something else is to be shown; dates only once both are there and in order.
export function watch(changed) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isWhole()) changed();
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "range") choose(changed);
    if (event.target.name === "mode") changed();
  });
}

function choose(changed) {
  const isCustom = form.elements.range.value === "custom";
  custom.hidden = !isCustom;
  if (isCustom && !since.value) suggest();
  changed();
}

function suggest() {
  const now = Date.now();
  since.value = local(now - LENGTHS.day * 1000);
  until.value = local(now);
}

function local(milliseconds) {
  const date = new Date(milliseconds);
  return new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

function isWhole() {
  until.setCustomValidity(since.value && until.value && since.value < until.value ? "" : "Must be later than the begin.");
  return form.reportValidity();
}
