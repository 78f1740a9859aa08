"""Faults of adapters that were sound when they were added, or that are requested repeatedly."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.bursts import BurstFailedError
from benchmarks.robustness.corrupt import WEIGHTS, CandidateAdapter
from benchmarks.robustness.server_under_test import SPARE_ADAPTERS, ServerUnderTest
from loramux_loadtests.client import ChatReply

REQUESTS, STREAMS = 64, 8
LONG_QUESTION = "Say what you know of each of these: " + ", ".join(f"item {number}" for number in range(60))
"""Longer than a block of the KV cache, so that the second request finds its prefix there."""


class CaseOutcome(NamedTuple):
    """The outcome of a case."""

    bad_served: bool
    """Whether an answer used the bad adapter."""
    message: str


RobustnessCase = Callable[[ServerUnderTest], Awaitable[CaseOutcome]]


async def add_sound_adapter(server: ServerUnderTest) -> CandidateAdapter:
    """Add a sound adapter and check that it answers.

    Raises:
        BurstFailedError: the server does not serve it.
    """
    candidate = server.new_candidate()
    response = await server.adapter_api.add(candidate.name, candidate.path)
    reply = await server.ask(candidate.name)
    if not response.accepted or not reply.ok:
        raise BurstFailedError(f"{server.name} does not serve a sound adapter: {response.message or reply.error}")
    return candidate


async def _add_then_corrupt(server: ServerUnderTest, corrupt: Callable[[Path], object]) -> CandidateAdapter:
    """Add an adapter, evict it from the engine, and corrupt all its files that the server reads."""
    candidate = await add_sound_adapter(server)
    await server.evict_others()
    for path in server.files_of(candidate.folder, WEIGHTS):
        path.parent.chmod(0o755)
        path.chmod(0o644)
        corrupt(path)
    return candidate


def format_replies(replies: list[ChatReply]) -> str:
    """Count the requests by their outcome, the most frequent first."""
    counts = Counter("200" if reply.ok else str(reply.error) for reply in replies)
    return "; ".join(f"{count} x {outcome}" for outcome, count in counts.most_common(3))


async def _request_and_remove(server: ServerUnderTest, candidate: CandidateAdapter, requests: int = 1) -> CaseOutcome:
    waiting = iter(range(requests))

    async def worker() -> list[ChatReply]:
        return [await server.ask(candidate.name) for _ in waiting]

    streams = await asyncio.gather(*(worker() for _ in range(STREAMS)))
    replies = list(chain.from_iterable(streams))
    await server.adapter_api.remove(candidate.name)
    return CaseOutcome(any(reply.ok for reply in replies), format_replies(replies))


def _write_nan(path: Path) -> None:
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    path.write_bytes(raw[:end] + np.full((len(raw) - end) // 4, np.nan, np.float32).tobytes())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


async def _deleted(server: ServerUnderTest) -> CaseOutcome:
    return await _request_and_remove(server, await _add_then_corrupt(server, Path.unlink))


async def _changed(server: ServerUnderTest) -> CaseOutcome:
    return await _request_and_remove(server, await _add_then_corrupt(server, _write_nan))


async def _truncated(server: ServerUnderTest) -> CaseOutcome:
    return await _request_and_remove(server, await _add_then_corrupt(server, _truncate), REQUESTS)


async def _wrong_size(server: ServerUnderTest) -> CaseOutcome:
    candidate = server.new_candidate()
    candidate.resize_tensors(2)
    response = await server.adapter_api.add(candidate.name, candidate.path)
    outcome = await _request_and_remove(server, candidate, REQUESTS)
    return outcome if response.accepted else CaseOutcome(outcome.bad_served, response.message)


async def _replaced(server: ServerUnderTest) -> CaseOutcome:
    """Check that the old weights leave no trace: the answer equals that of the new weights under their own name."""
    old, new = await add_sound_adapter(server), await add_sound_adapter(server)
    await server.ask(old.name, LONG_QUESTION)
    (old.folder / WEIGHTS).write_bytes((new.folder / WEIGHTS).read_bytes())
    response = await server.adapter_api.replace(old.name, old.path)
    mixed, pure = [await server.ask(candidate.name, LONG_QUESTION) for candidate in (old, new)]
    for candidate in (old, new):
        await server.adapter_api.remove(candidate.name)
    is_pure = mixed.ok and mixed.text == pure.text
    return CaseOutcome(
        not is_pure, response.message if not response.accepted else "" if is_pure else format_replies([mixed])
    )


async def _pinned(server: ServerUnderTest) -> CaseOutcome:
    """Check that pinning as many adapters as allowed leaves a slot for others."""
    responses = [await server.adapter_api.pin(name, pinned=True) for name in SPARE_ADAPTERS]
    another = await add_sound_adapter(server)
    for name in SPARE_ADAPTERS:
        await server.adapter_api.pin(name, pinned=False)
    await server.adapter_api.remove(another.name)
    rejections = [response.message for response in responses if response and not response.accepted]
    if None in responses:
        return CaseOutcome(False, "the server has no pins")
    return CaseOutcome(not rejections, rejections[0] if rejections else "every slot could be pinned")


FAULTS: Mapping[str, RobustnessCase] = {
    "deleted from disk, then requested": _deleted,
    "NaN written over it on disk, then requested": _changed,
    f"truncated on disk, then requested {REQUESTS} times": _truncated,
    f"of a larger base, requested {REQUESTS} times": _wrong_size,
    "new weights under the old name and path": _replaced,
    "as many pinned as allowed, then another one": _pinned,
}
"""In the first three, the adapter was added and then evicted from the engine."""
