"""Which version gives up its place in the engine: the policy alone, with no clock, no I/O and no engine.

The engine's host memory holds at most `capacity` versions. The least recently used goes first; what is pinned, what a
request leases or what is still being loaded stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from loramux_adapters.models import VersionId


@dataclass(frozen=True, slots=True)
class Resident:
    """What the policy has to know of a version that holds a place.

    `used` is a sequence number that grows with every lease, so that no clock is needed to order the uses.
    """

    used: int
    leases: int = 0
    loading: bool = False
    pinned: bool = False

    @property
    def is_evictable(self) -> bool:
        """Whether its place may be given to another version."""
        return not self.leases and not self.loading and not self.pinned


@dataclass(frozen=True, slots=True)
class Load:
    """There is a place, once `evict` (if any) has left the engine."""

    evict: VersionId | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Every place is leased or loading: somebody has to release one first."""


def plan(residents: Mapping[VersionId, Resident], capacity: int) -> Load | Wait:
    """How one more version can become resident without there ever being more than `capacity`."""
    if len(residents) < capacity:
        return Load()
    evictable = [version for version, resident in residents.items() if resident.is_evictable]
    if not evictable:
        return Wait()
    return Load(evict=min(evictable, key=lambda version: residents[version].used))
