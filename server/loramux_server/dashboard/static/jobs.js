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
  if (typeof job.progress !== "number") {
    found.textContent = job.loramux?.queue_position ? queuePlace(job.loramux).join(", ") : DASH;
    return found;
  }
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
  const warnings = evaluation.warnings ?? [];
  const doubt = warnings.length ? `, warnings: ${warnings.length}` : "";
  const found = cell("td", `${evaluation.verdict}: ${signed(mean)} [${signed(low)}, ${signed(high)}]${doubt}`);
  found.title = [evaluation.sentence, ...warnings.map((warning) => `Warning: ${warning.message}`)].join("\n");
  return found;
}

// Where a job stands: its place in the queue, or its steps and the time left.
function pace(details) {
  if (!details) return [];
  if (details.queue_position) return queuePlace(details);
  const parts = [`step ${details.step} of ${details.steps}`];
  if (details.phase && details.phase !== "training") parts.push(details.phase);
  if (typeof details.loss === "number") parts.push(`loss ${details.loss.toFixed(3)}`);
  if (typeof details.validation_loss === "number") parts.push(`validation ${details.validation_loss.toFixed(3)}`);
  if (details.seconds_left > 0) parts.push(`${duration(details.seconds_left)} left`);
  return parts;
}

function queuePlace({ queue_position: position, behind, starts_in_seconds: wait }) {
  const parts = [`place ${position} in the queue`];
  if (behind) parts.push(`behind ${behind}`);
  if (behind && typeof wait === "number") parts.push(`starts in ${duration(wait)}`);
  return parts;
}

// An estimate is shown without false precision.
function duration(seconds) {
  if (seconds < 45) return "less than a minute";
  return seconds < 90 * 60 ? `about ${Math.round(seconds / 60)} min` : `about ${(seconds / 3600).toFixed(1)} h`;
}
