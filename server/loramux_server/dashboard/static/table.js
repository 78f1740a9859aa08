// The table of routes: the base at the top, then adapters, sorted, filtered and paginated.

import { columns, modeName, name } from "./columns.js";
import { count } from "./format.js";

const find = (id) => document.getElementById(id);
const all = [name, ...columns];
const view = { sort: "total", descending: true, filter: "", page: 0, perPage: 25 };
let shown = { base: null, others: [], mode: "gpu_hour" };

export function build(announce) {
  const spans = [];
  for (const { group } of all) {
    if (spans.at(-1)?.group === group) spans.at(-1).size += 1;
    else spans.push({ group, size: 1 });
  }
  const groups = spans.map(({ group, size }) => element("th", { colSpan: size, scope: "colgroup", textContent: group }));
  groups[0].replaceWith((groups[0] = element("td", {})));
  const head = find("table").tHead;
  head.append(rowOf(groups), rowOf(all.map((each) => header(each, announce))));
  head.firstChild.className = "groups";
  find("table").querySelector("colgroup").append(...spans.map(({ size }) => element("col", { span: size })));
  wire(announce);
}

function header(column, announce) {
  const button = element("button", { type: "button", textContent: column.title });
  button.addEventListener("click", () => sortBy(column, announce));
  const cell = element("th", { scope: "col", id: `by-${column.id}` }, button);
  if (column.group && column.title.startsWith("p")) button.setAttribute("aria-label", `${column.group}, ${column.title}`);
  if (!column.isText) cell.classList.add("number");
  return cell;
}

function sortBy(column, announce) {
  view.descending = view.sort === column.id ? !view.descending : !column.isText;
  Object.assign(view, { sort: column.id, page: 0 });
  render();
  announce(`Sorted by ${column.group} ${column.title}, ${view.descending ? "highest" : "lowest"} first.`);
}

function wire(announce) {
  const turn = (by) => () => {
    view.page += by;
    render();
    announce(`Rows ${find("page").textContent}`);
  };
  find("previous").addEventListener("click", turn(-1));
  find("next").addEventListener("click", turn(1));
  find("per-page").addEventListener("change", (event) => {
    Object.assign(view, { perPage: Number(event.target.value), page: 0 });
    render();
  });
  find("filter").addEventListener("input", (event) => {
    Object.assign(view, { filter: event.target.value.trim().toLowerCase(), page: 0 });
    render();
    announce(`${find("page").textContent} adapters match the filter`);
  });
}

export function show(rows, mode) {
  shown = { ...rows, mode };
  render();
}

function render() {
  const { base, others, mode } = shown;
  if (!base) return;
  const matching = sorted(others.filter((row) => row.title.toLowerCase().includes(view.filter)));
  const pages = Math.max(1, Math.ceil(matching.length / view.perPage));
  view.page = Math.min(Math.max(view.page, 0), pages - 1);
  const first = view.page * view.perPage;
  const page = matching.slice(first, first + view.perPage);
  find("base-row").replaceChildren(rendered(base));
  find("rows").replaceChildren(...page.map(rendered));
  describe(matching.length, first, page.length, mode);
  for (const { id } of all) mark(id);
  disable(find("previous"), view.page === 0);
  disable(find("next"), view.page >= pages - 1);
}

// aria-disabled instead of disabled, because a disabled button loses the focus.
function disable(button, isOff) {
  button.setAttribute("aria-disabled", String(isOff));
}

function describe(found, first, size, mode) {
  find("page").textContent = found ? `${count(first + 1)}–${count(first + size)} of ${count(found)}` : "0 of 0";
  find("caption").textContent =
    `The base, then adapters: costs by ${modeName(mode)}. Select a column heading to sort by it.`;
  const empty = find("empty");
  empty.hidden = found > 0;
  empty.textContent = view.filter ? "No adapter matches the filter." : "No adapters are registered or were used.";
}

function mark(id) {
  const cell = find(`by-${id}`);
  if (id === view.sort) cell.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
  else cell.removeAttribute("aria-sort");
}

// Unknown values come last in both directions; equal values are sorted by name.
function sorted(rows) {
  const column = all.find(({ id }) => id === view.sort);
  const keyed = rows.map((row) => ({ row, value: column.value(row, shown.mode) }));
  keyed.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || byName(a, b);
    const order = typeof a.value === "string" ? a.value.localeCompare(b.value) : compare(a.value, b.value);
    return (view.descending ? -order : order) || byName(a, b);
  });
  return keyed.map(({ row }) => row);
}

const compare = (a, b) => (a === b ? 0 : a < b ? -1 : 1);
const byName = (a, b) => a.row.title.localeCompare(b.row.title);

function rendered(row) {
  const cells = columns.map((column) => cell(column, row));
  const line = rowOf([element("th", { scope: "row", textContent: row.title, title: row.title }), ...cells]);
  line.dataset.route = row.name;
  return line;
}

function cell(column, row) {
  const value = column.value(row, shown.mode);
  const found = element("td", { textContent: column.show(value, row, shown.mode) });
  found.dataset.column = column.id;
  if (value !== null) found.dataset.value = value;
  const hint = column.hint?.(row, shown.mode);
  if (hint) found.title = hint;
  else if (typeof value === "number" && !column.isText) found.title = String(value);
  if (!column.isText) found.classList.add("number");
  return found;
}

const rowOf = (cells) => element("tr", {}, ...cells);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
