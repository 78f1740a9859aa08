// The selected time range and cost mode.

const HOUR = 3600;
const LENGTHS = { hour: HOUR, day: 24 * HOUR, week: 7 * 24 * HOUR, month: 30 * 24 * HOUR };

const form = document.getElementById("range");
const custom = document.getElementById("custom");
const since = document.getElementById("since");
const until = document.getElementById("until");

// Ranges are exactly as long as their names say.
export function range(now = Date.now() / 1000) {
  const name = form.elements.range.value;
  if (name === "custom") return customRange();
  return { since: now - LENGTHS[name], by: name === "month" ? "day" : "hour" };
}

function customRange() {
  const [from, to] = [since, until].map((field) => new Date(field.value).getTime() / 1000);
  return { since: from, until: to, by: to - from > 10 * 24 * HOUR ? "day" : "hour" };
}

export const mode = () => form.elements.mode.value;

// Calls `changed` when the selection changes; for custom dates, once both are valid.
export function watch(changed) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isValid()) changed();
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

function isValid() {
  until.setCustomValidity(since.value && until.value && since.value < until.value ? "" : "Must be later than the start.");
  return form.reportValidity();
}
