"""The interfaces that the pool depends on, and the values that it returns."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

from loramux_adapters.models import VersionId


class Loader(Protocol):
    """Moves versions into and out of the engine's host memory."""

    async def load(self, version: VersionId) -> None:
        """Load the version into host memory.

        Raises:
            StoreError: its files are not what was accepted.
            Exception: any error of the engine.
        """

    async def unload(self, version: VersionId) -> None:
        """Remove the version from host memory; it has no lease."""

    async def slots(self) -> Set[VersionId]:
        """Return the versions that occupy a slot now."""


class PoolObserver(Protocol):
    """Receives the pool's events, for metrics."""

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        """A load ended after `seconds`, successfully or not."""

    def evicted(self, version: VersionId, reason: str) -> None:
        """A version was evicted: `capacity` (replaced by another one) or `removed`."""

    def resident(self, count: int) -> None:
        """The number of versions that are resident or loading changed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's hold on a resident version, from before its first token until its stream closes."""

    version: VersionId
    cold: bool
    """Whether the version had to be loaded, or was still loading, when the lease was requested."""
    waited: float
    """Seconds from the request for the lease until the version was resident."""
    release: Callable[[], None]
    """Ends the lease; only the first call counts."""


@dataclass(frozen=True, slots=True)
class ResidentView:
    """A version that is resident or loading, as operators see it."""

    version: VersionId
    leases: int
    loading: bool
    pinned: bool
    in_slot: bool


@dataclass(frozen=True, slots=True)
class PoolView:
    """The pool at one moment; `backed_off` maps each version that failed to load to the seconds until its retry."""

    capacity: int
    slots: int
    waiting: int
    residents: tuple[ResidentView, ...]
    backed_off: dict[VersionId, float]
