"""A loader, a clock and an observer for the pool; the loader records violations of its contract."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.errors import StoreError
from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_adapters.residency.backoff import INITIAL_DELAY, MAX_DELAY
from loramux_adapters.residency.pool import AdapterPool

violations: list[str] = []
"""Calls that a pool must never make. They are not raised: an error in a load would look like a broken adapter."""


def version(number: int) -> VersionId:
    return VersionId(AdapterName(f"a{number}"), Digest(f"{number:012x}"))


@dataclass
class FakeClock:
    now: float = 100.0
    sleeping: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleeping.append((self.now + seconds, woken))
        self.advance(0)
        await woken

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, woken in self.sleeping:
            if until <= self.now and not woken.done():
                woken.set_result(None)


@dataclass
class FakeLoader:
    """A loader with the limits of the real engine."""

    capacity: int
    clock: FakeClock = field(default_factory=FakeClock)
    held: set[VersionId] = field(default_factory=set)
    loads: Counter[VersionId] = field(default_factory=Counter)
    broken: set[VersionId] = field(default_factory=set)
    corrupt: set[VersionId] = field(default_factory=set)
    backoffs: dict[VersionId, tuple[float, float]] = field(default_factory=dict)
    """The delay of each version that failed, and when it ends."""
    forgiven: set[VersionId] = field(default_factory=set)
    """Versions whose current load may fail without a backoff."""
    gate: asyncio.Event | None = None
    calls: asyncio.Lock = field(default_factory=asyncio.Lock)
    turns: int = 1
    """The number of event loop iterations per call."""

    async def load(self, version: VersionId) -> None:
        self.loads[version] += 1
        _expect(version not in self.held, "loaded twice")
        _expect(self.backoffs.get(version, (0, 0))[1] <= self.clock.now, "loaded during its backoff")
        await self._work()
        if version in self.corrupt:
            raise StoreError("changed")
        if version in self.broken and version in self.forgiven:
            self.forgiven.remove(version)
            raise OSError("unreadable")
        if version in self.broken:
            delay = min(self.backoffs[version][0] * 2, MAX_DELAY) if version in self.backoffs else INITIAL_DELAY
            self.backoffs[version] = (delay, self.clock.now + delay)
            raise OSError("unreadable")
        self.backoffs.pop(version, None)
        self.held.add(version)
        _expect(len(self.held) <= self.capacity, "loaded beyond the capacity")

    async def unload(self, version: VersionId) -> None:
        await self._call()
        _expect(version in self.held, "unloaded without being loaded")
        self.held.discard(version)

    async def slots(self) -> set[VersionId]:
        return set(sorted(self.held)[:1])

    async def _call(self) -> None:
        """Run the call after earlier ones: the engine handles one at a time."""
        async with self.calls:
            await self._work()

    async def _work(self) -> None:
        if self.gate:
            await self.gate.wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)


def _expect(condition: bool, violation: str) -> None:
    if not condition:
        violations.append(violation)


@dataclass
class RecordingObserver:
    loads: list[tuple[VersionId, bool]] = field(default_factory=list)
    evictions: list[tuple[VersionId, str]] = field(default_factory=list)
    count: int = 0

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        assert seconds >= 0
        self.loads.append((version, ok))

    def evicted(self, version: VersionId, reason: str) -> None:
        self.evictions.append((version, reason))

    def resident(self, count: int) -> None:
        self.count = count


def pool_of(capacity: int, slots: int = 9, **options: Any) -> tuple[AdapterPool, FakeLoader, RecordingObserver]:
    clock = FakeClock()
    loader, observer = FakeLoader(capacity, clock), RecordingObserver()
    return AdapterPool(loader, capacity, observer, slots, clock=clock, sleep=clock.sleep, **options), loader, observer


async def settle() -> None:
    """Run the event loop until nothing changes any more."""
    for _ in range(60):
        await asyncio.sleep(0)
