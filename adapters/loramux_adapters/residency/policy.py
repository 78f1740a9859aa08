"""Eviction policy of the engine's host memory: a pure function without clock, I/O or engine.

Host memory holds at most `capacity` versions. The least recently used one is evicted first; pinned, leased and loading
versions stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from loramux_adapters.models import VersionId


@dataclass(frozen=True, slots=True)
class ResidentState:
    """The state of a resident version as far as eviction depends on it.

    `last_used` is a sequence number that grows with every lease, so that no clock is needed to order the uses.
    """

    last_used: int
    leases: int = 0
    loading: bool = False
    pinned: bool = False

    @property
    def is_evictable(self) -> bool:
        """Whether another version may replace this one."""
        return not self.leases and not self.loading and not self.pinned


@dataclass(frozen=True, slots=True)
class LoadNow:
    """The version can be loaded, once `evict` (if any) has left the engine."""

    evict: VersionId | None = None


@dataclass(frozen=True, slots=True)
class WaitForRelease:
    """No resident is evictable: a lease must be released or a load must end first."""


def plan_eviction(residents: Mapping[VersionId, ResidentState], capacity: int) -> LoadNow | WaitForRelease:
    """Decide how one more version can become resident without ever exceeding `capacity`."""
    if len(residents) < capacity:
        return LoadNow()
    evictable = [version for version, resident in residents.items() if resident.is_evictable]
    if not evictable:
        return WaitForRelease()
    return LoadNow(evict=min(evictable, key=lambda version: residents[version].last_used))
