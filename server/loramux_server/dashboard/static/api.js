// Requests to the server. The key is kept only in this tab's session storage and sent only in the Authorization header.

const KEY = "loramux-key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(KEY);
export const setKey = (text) => sessionStorage.setItem(KEY, text);
export const removeKey = () => sessionStorage.removeItem(KEY);

async function request(path, options = {}) {
  const headers = { ...options.headers, ...(key() ? { authorization: `Bearer ${key()}` } : {}) };
  const response = await fetch(path, { cache: "no-store", ...options, headers });
  if (!response.ok) throw new ApiError(response.status, await errorMessage(response));
  return response;
}

async function errorMessage(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server responded with status ${response.status}.`;
  }
}

const json = async (path, options) => (await request(path, options)).json();

function usage(range, query, signal) {
  const parameters = new URLSearchParams({ ...query, since: range.since, limit: 10000 });
  if (range.until) parameters.set("until", range.until);
  return json(`admin/usage?${parameters}`, { signal });
}

// Data of the table and the tiles.
export async function figures(range, signal) {
  const [report, residency, live] = await Promise.all([
    usage(range, { group_by: "adapter" }, signal),
    json("admin/residency", { signal }),
    inFlight(signal),
  ]);
  return { report, residency, live };
}

// Data of the charts over time.
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

// Requests in flight by route, from the metrics: no other endpoint has those of the base.
async function inFlight(signal) {
  const text = await (await request("metrics?name[]=loramux_requests_in_flight", { signal })).text();
  const found = text.matchAll(/^loramux_requests_in_flight\{route="(\w+)"\} (\S+)$/gm);
  return Object.fromEntries([...found].map(([, route, value]) => [route, Number(value)]));
}

export async function readiness(signal) {
  try {
    await request("ready", { signal });
    return { ready: true, text: "ready" };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { ready: false, text: error.message };
  }
}

// Null if the server has no such API.
async function list(path, signal) {
  try {
    return (await json(path, { signal })).data;
  } catch (error) {
    if (error instanceof ApiError) return null;
    throw error;
  }
}

export const jobs = (signal) => list("v1/fine_tuning/jobs?limit=20", signal);
export const experiments = (signal) => list("admin/experiments?limit=20", signal);
export const keys = (signal) => list("admin/keys", signal);
export const createKey = (grant) =>
  json("admin/keys", { method: "POST", body: JSON.stringify(grant), headers: { "content-type": "application/json" } });
export const rotateKey = (id) => json(`admin/keys/${id}/rotate`, { method: "POST" });
export const revokeKey = (id) => json(`admin/keys/${id}`, { method: "DELETE" });
export const feedback = (signal) => list("admin/feedback", signal);
