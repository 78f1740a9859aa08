"""An engine's memory, a clock and an observer for the pool, which note everything that a pool must never do."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.errors import StoreError
from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_adapters.residency.backoff import FIRST_PAUSE, LONGEST_PAUSE
from loramux_adapters.residency.pool import AdapterPool

wrongs: list[str] = []
"""What pools did that they must never do: raised in a load, it would look to the pool like a broken adapter."""


def version(number: int) -> VersionId:
    return VersionId(AdapterName(f"a{number}"), Digest(f"{number:012x}"))


@dataclass
class Clock:
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
class EngineMemory:
    """A loader that holds the pool to what the engine can bear."""

    capacity: int
    slot_count: int
    clock: Clock = field(default_factory=Clock)
    held: set[VersionId] = field(default_factory=set)
    pinned: set[VersionId] = field(default_factory=set)
    loads: Counter[VersionId] = field(default_factory=Counter)
    broken: set[VersionId] = field(default_factory=set)
    damaged: set[VersionId] = field(default_factory=set)
    rests: dict[VersionId, tuple[float, float]] = field(default_factory=dict)
    """The pause of each version that failed, and when it is over."""
    pardoned: set[VersionId] = field(default_factory=set)
    """What is being loaded and may fail without being left alone."""
    gate: asyncio.Event | None = None
    calls: asyncio.Lock = field(default_factory=asyncio.Lock)
    steps: int = 1
    """How many turns of the event loop everything takes."""

    async def load(self, version: VersionId) -> None:
        self.loads[version] += 1
        _expect(version not in self.held, "loaded twice")
        _expect(self.rests.get(version, (0, 0))[1] <= self.clock.now, "not left alone after it failed")
        await self._work()
        if version in self.damaged:
            raise StoreError("changed")
        if version in self.broken and version in self.pardoned:
            self.pardoned.remove(version)
            raise OSError("unreadable")
        if version in self.broken:
            pause = min(self.rests[version][0] * 2, LONGEST_PAUSE) if version in self.rests else FIRST_PAUSE
            self.rests[version] = (pause, self.clock.now + pause)
            raise OSError("unreadable")
        self.rests.pop(version, None)
        self.held.add(version)
        _expect(len(self.held) <= self.capacity, "the engine would evict by itself")

    async def unload(self, version: VersionId) -> None:
        await self._call()
        _expect(version in self.held, "only what is there can leave")
        self.held.discard(version)
        self.pinned.discard(version)

    async def pin(self, version: VersionId, *, pinned: bool) -> None:
        await self._call()
        _expect(version in self.held, "only what is there can be pinned")
        _expect((version in self.pinned) != pinned, "pinned twice, or let go without being pinned")
        (self.pinned.add if pinned else self.pinned.discard)(version)
        _expect(len(self.pinned) < self.slot_count, "the next adapter finds no slot: the engine would die")

    async def slots(self) -> set[VersionId]:
        return set(sorted(self.held)[:1])

    async def _call(self) -> None:
        """Take as long as the engine's other calls before this one take: it answers one after the other."""
        async with self.calls:
            await self._work()

    async def _work(self) -> None:
        if self.gate:
            await self.gate.wait()
        for _ in range(self.steps):
            await asyncio.sleep(0)


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        wrongs.append(otherwise)


@dataclass
class Observed:
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


def pool_of(capacity: int, slots: int = 9, **options: Any) -> tuple[AdapterPool, EngineMemory, Observed]:
    clock = Clock()
    memory, observed = EngineMemory(capacity, slots, clock), Observed()
    return AdapterPool(memory, capacity, observed, slots, clock=clock, sleep=clock.sleep, **options), memory, observed


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)
