"""What the pool needs, and what it hands out and shows."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

from loramux_adapters.models import VersionId


class Loader(Protocol):
    """Moves versions into and out of the engine's host memory."""

    async def load(self, version: VersionId) -> None:
        """Bring the version in; raises StoreError if its files are not what was accepted, or what the engine raises."""

    async def unload(self, version: VersionId) -> None:
        """Take the version out; it has no lease."""

    async def pin(self, version: VersionId, *, pinned: bool) -> None:
        """Keep a version that is in host memory in its slot, or let it go again."""

    async def slots(self) -> Set[VersionId]:
        """The versions that hold a slot now."""


class PoolObserver(Protocol):
    """Told what the pool does, for metrics."""

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        """A load ended, well or not."""

    def evicted(self, version: VersionId, reason: str) -> None:
        """A version left the engine: `capacity` (another needed its place) or `removed`."""

    def resident(self, count: int) -> None:
        """How many versions hold a place now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's hold on a resident version, from before its first token until its stream closes."""

    version: VersionId
    cold: bool
    """Whether the version had to be loaded, or was still loading, when it was asked for."""
    waited: float
    """Seconds from the asking until it was resident."""
    release: Callable[[], None]
    """Gives the hold back; only the first call counts."""


@dataclass(frozen=True, slots=True)
class ResidentView:
    """A version that holds a place, as operators see it."""

    version: VersionId
    leases: int
    loading: bool
    pinned: bool
    in_slot: bool


@dataclass(frozen=True, slots=True)
class PoolView:
    """The pool at one moment; `broken` says in how many seconds each version that failed is tried again."""

    capacity: int
    slots: int
    waiting: int
    residents: tuple[ResidentView, ...]
    broken: dict[VersionId, float]
