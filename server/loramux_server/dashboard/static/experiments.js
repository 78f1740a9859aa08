// The table of experiments, and what users say by route.

import { DASH, count, moment, share } from "./format.js";

const find = (id) => document.getElementById(id);
const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2);
const score = (estimate) => (estimate ? `${estimate.estimate.toFixed(2)} [${estimate.low.toFixed(2)}, ${estimate.high.toFixed(2)}]` : DASH);

export function show(experiments, feedback) {
  find("experiments").hidden = experiments === null;
  if (experiments === null) return;
  find("no-experiments").hidden = experiments.length > 0;
  find("experiment-rows").replaceChildren(...experiments.map(line));
  const said = feedback?.map(({ adapter, version, requests, mean }) => `${route(adapter, version)}: ${mean.toFixed(2)} from ${count(requests)}`);
  find("feedback").textContent = said?.length
    ? `Feedback of the last day, mean score from requests of those who gave it (not an experiment): ${said.join("; ")}.`
    : "";
}

const route = (adapter, version) => (adapter ? `${adapter}@${version}` : "base");

function line(experiment) {
  const { report } = experiment;
  const row = document.createElement("tr");
  const name = cell("th", experiment.id);
  name.scope = "row";
  const users = report.challenger.units + report.reference.units;
  const { low, estimate, high } = report.difference;
  row.append(
    name,
    cell("td", experiment.adapter),
    cell("td", experiment.reason ? `${experiment.state}: ${experiment.reason}` : experiment.state),
    cell("td", `${report.challenger.name} against ${report.reference.name}, ${share(experiment.share)} get the ${experiment.sampled}`),
    cell("td", count(users)),
    cell("td", `${score(report.challenger.score)} against ${score(report.reference.score)}`),
    cell("td", users ? `${signed(estimate)} [${signed(low)}, ${signed(high)}]` : DASH),
    verdict(report),
    cell("td", moment(new Date(experiment.created_at * 1000))),
  );
  return row;
}

// The warnings are shown in full: a verdict is worth nothing without them.
function verdict(report) {
  const found = cell("td", report.sentence);
  for (const warning of report.warnings) {
    const line = cell("p", warning);
    line.className = "hint";
    found.append(line);
  }
  return found;
}

function cell(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}
