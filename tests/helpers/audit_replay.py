"""Rebuilds the registry's state from its audit log; the two must agree."""

from collections.abc import Iterable

from loramux_adapters.models import AdapterName, Digest, VersionState
from loramux_adapters.registry.registry import AdapterRecord, AuditRecord

PROVING, READY = VersionState.CHECKING, VersionState.READY

Adapters = dict[AdapterName, tuple[dict[Digest, VersionState], dict[Digest, float], bool]]


def summary(records: Iterable[AdapterRecord]) -> Adapters:
    """Return the states of the versions, the targets and the pin of each adapter."""
    return {
        record.name: ({v.id.digest: v.state for v in record.versions}, record.targets, record.pinned)
        for record in records
    }


def replay(changes: list[AuditRecord]) -> Adapters:
    """Return the same from the changes alone, oldest first."""
    adapters: Adapters = {}
    for change in changes:
        states, targets, pinned = adapters.pop(change.adapter, ({}, {}, False))
        assert change.actor in ("operator", "server")
        named = (change.before or change.after or {}) if change.action == "remove_version" else change.after
        digest = Digest(named["version"][-12:]) if isinstance(named, dict) and "version" in named else Digest("")
        match change.action:
            case "add":
                states[digest] = READY if states.get(digest) is READY else PROVING
            case "ready" | "rejected" | "quarantined":
                assert change.before == {"state": states[digest]}
                states[digest] = VersionState(change.action)
                if change.action != "ready":
                    targets.pop(digest, None)
            case "promote" | "split" | "rollback":
                assert change.before == targets
                targets = change.after
            case "pin" | "unpin":
                assert change.before == pinned
                pinned = change.after
            case "remove_version":
                del states[digest]
            case "remove":
                assert change.before == targets
                states = {}
            case other:
                raise AssertionError(f"unknown action {other}")
        if states:
            adapters[change.adapter] = (states, targets, pinned)
    return adapters
