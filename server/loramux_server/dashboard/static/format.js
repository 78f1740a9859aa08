// Formatting of numbers and times. Unknown values are dashes, zero is 0.

export const DASH = "–";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const two = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2, minimumFractionDigits: 2 });

const known = (show) => (value) => (value === null || value === undefined || Number.isNaN(value) ? DASH : show(value));

export const count = known((value) => whole.format(value));

export const share = known((value) => (value > 0 && value < 0.001 ? "<0.1 %" : `${one.format(value * 100)} %`));

export const seconds = known((value) => {
  if (value >= 10) return `${one.format(value)} s`;
  if (value >= 1) return `${two.format(value)} s`;
  return value >= 0.01 || value === 0 ? `${whole.format(value * 1000)} ms` : `${two.format(value * 1000)} ms`;
});

// Three significant digits: a request may cost a millionth of a dollar.
export const dollars = known((value) => {
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size >= 1) return `${sign}$${two.format(size)}`;
  const places = Math.min(12, 2 - Math.floor(Math.log10(size)));
  return `${sign}$${size.toFixed(places)}`;
});

const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const year = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const dated = (date) => year.format(date);
export const moment = (date) => day.format(date);
export const time = (date) => clock.format(date);
