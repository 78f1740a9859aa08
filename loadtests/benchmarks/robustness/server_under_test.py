"""A server on which bad adapters are tried: what it serves that is sound, and whether that is still so."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from numpy.random import default_rng

from benchmarks.robustness.adapter_api import Door
from benchmarks.robustness.corrupt import Draft, write_sound
from loramux_loadtests.client import Client, Reply
from loramux_loadtests.loadtest.prompts import random_prompts

GOOD = "good"
SPARES = ("spare-0", "spare-1", "spare-2", "spare-3")
SLOTS, PLACES = 2, 4
"""As few as will do, for then the spares and GOOD are enough to push every other adapter out of the engine."""
QUESTIONS = ("The capital of France is", "Count: one two three", "Write a short poem about rain.")
TOKENS = 12
FILLING_NUMBERS, FILLING_PROMPTS = 100, 8
"""Prompts long enough that together they write on every block of the KV cache, which KV_CACHE_BYTES keeps small:
what a bad adapter leaves there is found by those who come next, and not much later by somebody else."""
KV_CACHE_BYTES = 96 << 20
MAX_MODEL_LEN = 1024


@dataclass(frozen=True)
class Subject:
    """One running server."""

    name: str
    door: Door
    client: Client
    base: Path
    folder: Path
    """Where adapters may come from."""
    copies: Path | None
    """Where the server keeps copies of its own, if it does."""
    numbers: Iterator[int]

    async def answers(self) -> list[str | None]:
        """What the base and the good adapter say to the same questions as always, None where they fail."""
        replies: list[Reply] = []
        for model, question in itertools.product((self.base.name, GOOD), QUESTIONS):
            if replies and not replies[-1].status:
                replies.append(replies[-1])  # it does not answer at all, and need not be waited for again and again
            else:
                replies.append(await self.ask(model, question))
        return [reply.text if reply.ok else None for reply in replies]

    async def ask(self, model: str, text: str = QUESTIONS[0]) -> Reply:
        """One answer, decoded greedily."""
        return await self.client.chat(model, [{"role": "user", "content": text}], max_tokens=TOKENS)

    async def fill(self, model: str) -> list[Reply]:
        """Let a model write on every block of the KV cache."""
        texts = random_prompts(FILLING_PROMPTS, default_rng(next(self.numbers)), FILLING_NUMBERS)
        return await asyncio.gather(*(self.ask(model, text) for text in texts))

    def draft(self) -> Draft:
        """A sound adapter with a content of its own, to be spoilt."""
        number = next(self.numbers)
        folder = write_sound(self.folder / f"case-{number}", self.base, number)
        return Draft(folder, self.base, self.folder.with_name("outside"), f"bad-{number}", str(folder))

    async def push_out(self) -> None:
        """Use other adapters until none that came before them is left in the engine."""
        for spare in SPARES:
            await self.ask(spare)

    def files_of(self, folder: Path, name: str) -> list[Path]:
        """The file `name` of an adapter's folder, and every copy of it that the server reads."""
        content = (folder / name).read_bytes()
        copies = self.copies.rglob(name) if self.copies else ()
        return [folder / name, *(path for path in copies if path.read_bytes() == content)]
