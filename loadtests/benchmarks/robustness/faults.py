"""What can go wrong with an adapter that was sound when it was accepted, or that is asked for again and again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.bursts import BurstFailedError
from benchmarks.robustness.corrupt import WEIGHTS, Draft
from benchmarks.robustness.server_under_test import SPARES, Subject
from loramux_loadtests.client import Reply

TIMES, STREAMS = 64, 8
LONG_QUESTION = "Say what you know of each of these: " + ", ".join(f"item {number}" for number in range(60))
"""Longer than a block of the KV cache, so that its beginning is found there again."""


class Outcome(NamedTuple):
    """What came of a case."""

    got_in: bool
    """Whether what is bad was used for an answer."""
    said: str


Case = Callable[[Subject], Awaitable[Outcome]]


async def accepted(subject: Subject) -> Draft:
    """A sound adapter that the server has taken and answers with; BurstFailedError if it does not."""
    draft = subject.draft()
    answer = await subject.door.offer(draft.name, draft.path)
    reply = await subject.ask(draft.name)
    if not answer.accepted or not reply.ok:
        raise BurstFailedError(f"{subject.name} does not serve a sound adapter: {answer.said or reply.error}")
    return draft


async def _damaged(subject: Subject, damage: Callable[[Path], object]) -> Draft:
    """An adapter that was accepted, left the engine, and was then damaged wherever the server reads it from."""
    draft = await accepted(subject)
    await subject.push_out()
    for path in subject.files_of(draft.folder, WEIGHTS):
        path.parent.chmod(0o755)
        path.chmod(0o644)
        damage(path)
    return draft


def told(replies: list[Reply]) -> str:
    """What the requests were answered, and how often."""
    counts = Counter("200" if reply.ok else str(reply.error) for reply in replies)
    return "; ".join(f"{count} x {words}" for words, count in counts.most_common(3))


async def _asked(subject: Subject, draft: Draft, times: int = 1) -> Outcome:
    waiting = iter(range(times))

    async def one_after_the_other() -> list[Reply]:
        return [await subject.ask(draft.name) for _ in waiting]

    streams = await asyncio.gather(*(one_after_the_other() for _ in range(STREAMS)))
    replies = list(chain.from_iterable(streams))
    await subject.door.withdraw(draft.name)
    return Outcome(any(reply.ok for reply in replies), told(replies))


def _with_nan(path: Path) -> None:
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    path.write_bytes(raw[:end] + np.full((len(raw) - end) // 4, np.nan, np.float32).tobytes())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


async def _deleted(subject: Subject) -> Outcome:
    return await _asked(subject, await _damaged(subject, Path.unlink))


async def _changed(subject: Subject) -> Outcome:
    return await _asked(subject, await _damaged(subject, _with_nan))


async def _truncated(subject: Subject) -> Outcome:
    return await _asked(subject, await _damaged(subject, _cut), TIMES)


async def _unfit(subject: Subject) -> Outcome:
    draft = subject.draft()
    draft.resize(2)
    answer = await subject.door.offer(draft.name, draft.path)
    outcome = await _asked(subject, draft, TIMES)
    return outcome if answer.accepted else Outcome(outcome.got_in, answer.said)


async def _renewed(subject: Subject) -> Outcome:
    """The old weights must leave no trace: the answer is that of the new ones under a name of their own."""
    old, new = await accepted(subject), await accepted(subject)
    await subject.ask(old.name, LONG_QUESTION)
    (old.folder / WEIGHTS).write_bytes((new.folder / WEIGHTS).read_bytes())
    answer = await subject.door.renew(old.name, old.path)
    mixed, pure = [await subject.ask(draft.name, LONG_QUESTION) for draft in (old, new)]
    for draft in (old, new):
        await subject.door.withdraw(draft.name)
    is_pure = mixed.ok and mixed.text == pure.text
    return Outcome(not is_pure, answer.said if not answer.accepted else "" if is_pure else told([mixed]))


async def _pinned(subject: Subject) -> Outcome:
    """Whoever pins as much as is let must leave others a slot."""
    answers = [await subject.door.pin(name, pinned=True) for name in SPARES]
    another = await accepted(subject)
    for name in SPARES:
        await subject.door.pin(name, pinned=False)
    await subject.door.withdraw(another.name)
    refusals = [answer.said for answer in answers if answer and not answer.accepted]
    if None in answers:
        return Outcome(False, "it has no pins")
    return Outcome(not refusals, refusals[0] if refusals else "every slot could be pinned")


MISHAPS: Mapping[str, Case] = {
    "deleted from disk, then asked for": _deleted,
    "NaN written over it on disk, then asked for": _changed,
    f"truncated on disk, then asked for {TIMES} times": _truncated,
    f"of a larger base, asked for {TIMES} times": _unfit,
    "new weights under the old name and path": _renewed,
    "as many pinned as are let, then another one": _pinned,
}
"""In the first three the adapter was accepted, and others have pushed it out of the engine."""
