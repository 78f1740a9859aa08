// Joins the server's responses: one row for the base, and one for each adapter that is registered or was used.

export function rows({ report, residency, live }, registered) {
  const residents = byAdapter(residency);
  const groups = new Map(report.groups.map((group) => [group.label.adapter || group.label.route, group]));
  const pinned = new Map(registered.map((adapter) => [adapter.name, adapter.pinned]));
  const base = row("base", groups.get("base"), { name: "base", live: live.base ?? 0 });
  const names = new Set([...pinned.keys(), ...groups.keys(), ...residents.keys()]);
  names.delete("base");
  const others = [...names].map((name) => row(kind(name, groups), groups.get(name), {
    name,
    ...location(residents.get(name), pinned.get(name)),
  }));
  return { base, others };
}

const kind = (name, groups) => groups.get(name)?.label.route ?? "adapter";

function row(route, group, facts) {
  const outcomes = group?.outcomes ?? {};
  const wrong = (outcomes.failed ?? 0) + (outcomes.refused ?? 0);
  return {
    route,
    group,
    ...facts,
    title: route === "none" ? "no route" : facts.name,
    errors: group ? wrong / group.requests : null,
    outcomes: Object.entries(outcomes).map(([outcome, count]) => `${count} ${outcome}`).join(", "),
  };
}

function byAdapter(residency) {
  const found = new Map();
  const of = (version) => {
    const name = version.split("@")[0];
    if (!found.has(name)) found.set(name, { leases: 0, residents: [], broken: null });
    return found.get(name);
  };
  for (const resident of residency.resident) {
    const one = of(resident.version);
    one.leases += resident.leases;
    one.residents.push(resident);
  }
  for (const broken of residency.broken) of(broken.version).broken = broken.retry_in;
  return found;
}

const LOCATIONS = ["not registered", "not loaded", "failed to load", "loading", "in memory", "in a slot"];

// Location of an adapter's best version; `rank` is its sort order.
function location(found, pinned) {
  const rank = Math.max(
    pinned === undefined ? 0 : 1,
    found?.broken === null || !found ? 0 : 2,
    ...(found?.residents ?? []).map((one) => (one.loading ? 3 : one.tier === "slot" ? 5 : 4)),
  );
  const isPinned = pinned || (found?.residents ?? []).some((one) => one.pinned);
  const where = LOCATIONS[rank] + (isPinned ? ", pinned" : "");
  return { live: found?.leases ?? 0, where, rank: rank + (isPinned ? 0.5 : 0) };
}
