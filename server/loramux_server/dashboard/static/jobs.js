// Fine-tuning jobs.

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
  const begun = job.created_at ? moment(new Date(job.created_at * 1000)) : DASH;
  const makes = job.fine_tuned_model ?? job.loramux?.model ?? DASH;
  const state = cell("td", job.error?.message ? `${job.status}: ${job.error.message}` : job.status);
  row.append(name, state, progress(job), cell("td", cost(job)), verdict(job), cell("td", makes), cell("td", begun));
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

// Both ways to count it, where prices are set.
function cost(job) {
  const { price_list: list, gpu_hour: time } = job.loramux?.cost ?? {};
  return [list && `${dollars(list)} tokens`, time && `${dollars(time)} time`].filter(Boolean).join(", ") || DASH;
}

const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2);

// The whole sentence is long: it is there for whoever points at it, and for screen readers.
function verdict(job) {
  const trial = job.loramux?.trial;
  if (!trial) return cell("td", DASH);
  const { low, mean, high } = trial.gain;
  const found = cell("td", `${trial.verdict}: ${signed(mean)} [${signed(low)}, ${signed(high)}]`);
  found.title = trial.sentence;
  return found;
}

function pace(ours) {
  if (!ours) return [];
  const words = [`step ${ours.step} of ${ours.steps}`];
  if (typeof ours.loss === "number") words.push(`loss ${ours.loss.toFixed(3)}`);
  if (typeof ours.validation_loss === "number") words.push(`validation ${ours.validation_loss.toFixed(3)}`);
  if (ours.seconds_left > 0) words.push(`${Math.round(ours.seconds_left)} s left`);
  return words;
}
