// The table of API keys, and what can be done with them.

import * as api from "./api.js";
import { DASH, dated, moment } from "./format.js";

const find = (id) => document.getElementById(id);
const at = (seconds, format) => (seconds === null ? "never" : format(new Date(seconds * 1000)));
const shown = { text: "" };

export function watch() {
  find("new-key").addEventListener("submit", (event) => {
    event.preventDefault();
    const [name, project, scopes] = ["name", "project", "scopes"].map((field) => find(`new-key-${field}`).value.trim());
    issue(() => api.createKey({ name, project, scopes: scopes.split(" ") }));
  });
}

export function show(keys) {
  find("keys").hidden = keys === null;
  // Rows are replaced only when they change: a button keeps the focus.
  const text = JSON.stringify(keys);
  if (keys === null || text === shown.text) return;
  shown.text = text;
  find("no-keys").hidden = keys.length > 0;
  find("key-rows").replaceChildren(...keys.map(line));
}

function line(key) {
  const row = document.createElement("tr");
  const name = cell("th", key.name);
  name.scope = "row";
  row.append(
    name,
    cell("td", key.id),
    cell("td", `${key.secrets.at(-1)?.prefix ?? ""}…`),
    cell("td", key.project),
    cell("td", key.scopes.join(", ")),
    cell("td", key.models?.join(", ") ?? DASH),
    cell("td", at(key.last_used_at, moment)),
    cell("td", at(key.expires_at, dated)),
    cell("td", key.status),
    actions(key),
  );
  return row;
}

function actions(key) {
  const found = cell("td", "");
  if (key.status !== "active") return found;
  found.append(
    button(`Rotate ${key.name}`, "Rotate", () => confirm(`Give ${key.name} a new secret? The old one works for a day more.`) && issue(() => api.rotateKey(key.id))),
    " ",
    button(`Revoke ${key.name}`, "Revoke", () => confirm(`Revoke ${key.name} for good?`) && change(() => api.revokeKey(key.id))),
  );
  return found;
}

function button(label, text, act) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function issue(request) {
  return change(async () => {
    const issued = await request();
    find("new-key").reset();
    return `The key of ${issued.name}, which is shown only now: ${issued.key}`;
  });
}

async function change(request) {
  let said;
  try {
    const message = await request();
    said = typeof message === "string" ? message : "";
    show(await api.keys());
  } catch (error) {
    said = error instanceof api.ApiError ? error.message : "The server does not respond.";
  }
  Object.assign(find("key-message"), { textContent: said, hidden: !said });
}

function cell(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}
