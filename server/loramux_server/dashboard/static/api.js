// What is asked of the server. The key lives in this tab's session storage and in the Authorization header only.

const KEY = "loramux-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(KEY);
export const keep = (text) => sessionStorage.setItem(KEY, text);
export const forget = () => sessionStorage.removeItem(KEY);

async function ask(path, options = {}) {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store", ...options });
  if (!answer.ok) throw new Refused(answer.status, await reason(answer));
  return answer;
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

const json = async (path, options) => (await ask(path, options)).json();

function usage(range, question, signal) {
  const asked = new URLSearchParams({ ...question, since: range.since, limit: 10000 });
  if (range.until) asked.set("until", range.until);
  return json(`admin/usage?${asked}`, { signal });
}

// What the table and the tiles show.
export async function figures(range, signal) {
  const [report, residency, live] = await Promise.all([
    usage(range, { group_by: "adapter" }, signal),
    json("admin/residency", { signal }),
    inFlight(signal),
  ]);
  return { report, residency, live };
}

// What the charts over time show.
export async function hours(range, signal) {
  const group_by = range.by;
  const [base, adapters] = await Promise.all([
    usage(range, { group_by, route: "base" }, signal),
    usage(range, { group_by, route: "adapter" }, signal),
  ]);
  return { base: base.groups, adapters: adapters.groups };
}

export const adapters = async (signal) => (await json("admin/adapters", { signal })).data;

export async function baseName(signal) {
  return (await json("v1/models", { signal })).data.find((model) => model.parent === null)?.id;
}

// Requests that run or wait, by route: from the metrics, which alone know those of the base.
async function inFlight(signal) {
  const text = await (await ask("metrics?name[]=loramux_requests_in_flight", { signal })).text();
  const found = text.matchAll(/^loramux_requests_in_flight\{route="(\w+)"\} (\S+)$/gm);
  return Object.fromEntries([...found].map(([, route, value]) => [route, Number(value)]));
}

export async function readiness(signal) {
  try {
    await ask("ready", { signal });
    return { ready: true, words: "ready" };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { ready: false, words: error.message };
  }
}

// Null where the server has no such thing.
export async function jobs(signal) {
  try {
    return (await json("v1/fine_tuning/jobs?limit=20", { signal })).data;
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}
