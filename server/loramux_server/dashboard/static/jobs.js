// The table of fine-tuning jobs.

import { DASH, dollars, moment, share } from "./format.js";

const find = (id) => document.getElementById(id);

export function show(jobs) {
  find("jobs").hidden = jobs === null;
  if (jobs === null) return;
  find("no-jobs").hidden = jobs.length > 0;
  find("job-rows").replaceChildren(...jobs.map(line));
}

function line(job) {
  const row = document.createElement("tr");
  const name = cell("th", job.id);
  name.scope = "row";
  const created = job.created_at ? moment(new Date(job.created_at * 1000)) : DASH;
  const model = job.fine_tuned_model ?? job.loramux?.model ?? DASH;
  const state = cell("td", job.error?.message ? `${job.status}: ${job.error.message}` : job.status);
  row.append(name, state, progress(job), cell("td", cost(job)), verdict(job), cell("td", model), cell("td", created));
  return row;
}

function cell(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

function progress(job) {
  const found = cell("td", DASH);
  if (typeof job.progress !== "number") return found;
  const bar = Object.assign(document.createElement("progress"), { max: 1, value: job.progress });
  bar.setAttribute("aria-label", `Progress of ${job.id}`);
  found.replaceChildren(bar, ` ${[share(job.progress), ...pace(job.loramux)].join(", ")}`);
  return found;
}

// Cost by both modes, if prices are set.
function cost(job) {
  const { price_list: list, gpu_hour: time } = job.loramux?.cost ?? {};
  return [list && `${dollars(list)} tokens`, time && `${dollars(time)} time`].filter(Boolean).join(", ") || DASH;
}

const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2);

// The full sentence is long, so it is shown as a tooltip.
function verdict(job) {
  const evaluation = job.loramux?.evaluation;
  if (!evaluation) return cell("td", DASH);
  const { low, mean, high } = evaluation.gain;
  const found = cell("td", `${evaluation.verdict}: ${signed(mean)} [${signed(low)}, ${signed(high)}]`);
  found.title = evaluation.sentence;
  return found;
}

function pace(details) {
  if (!details) return [];
  const parts = [`step ${details.step} of ${details.steps}`];
  if (typeof details.loss === "number") parts.push(`loss ${details.loss.toFixed(3)}`);
  if (typeof details.validation_loss === "number") parts.push(`validation ${details.validation_loss.toFixed(3)}`);
  if (details.seconds_left > 0) parts.push(`${Math.round(details.seconds_left)} s left`);
  return parts;
}
