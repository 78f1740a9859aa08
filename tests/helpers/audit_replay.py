"""What is registered, told by nothing but the audit: the two must agree."""

from collections.abc import Iterable

from loramux_adapters.models import AdapterName, Digest, VersionState
from loramux_adapters.registry.registry import AdapterRecord, AuditRecord

PROVING, READY = VersionState.PROVING, VersionState.READY

Adapters = dict[AdapterName, tuple[dict[Digest, VersionState], dict[Digest, float], bool]]


def summary(records: Iterable[AdapterRecord]) -> Adapters:
    """The versions' states, the targets and whether it is pinned, of each adapter."""
    return {
        record.name: ({v.id.digest: v.state for v in record.versions}, record.targets, record.pinned)
        for record in records
    }


def replayed(changes: list[AuditRecord]) -> Adapters:
    """The same, from the changes alone, the oldest first."""
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
                raise AssertionError(f"an unknown action: {other}")
        if states:
            adapters[change.adapter] = (states, targets, pinned)
    return adapters
