"""A server that gets bad adapters: its sound models, and whether their answers have changed."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from numpy.random import default_rng

from benchmarks.robustness.adapter_api import AdapterApi
from benchmarks.robustness.corrupt import CandidateAdapter, write_sound_adapter
from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.loadtest.prompts import random_prompts

GOOD_ADAPTER = "good"
SPARE_ADAPTERS = ("spare-0", "spare-1", "spare-2", "spare-3")
MAX_LORAS, MAX_CPU_LORAS = 2, 4
"""So few that requests for the spare adapters and GOOD_ADAPTER evict all others from the engine."""
QUESTIONS = ("The capital of France is", "Count: one two three", "Write a short poem about rain.")
TOKENS = 12
FILLING_NUMBERS, FILLING_PROMPTS = 100, 8
"""Prompts long enough to write every block of the KV cache, which KV_CACHE_BYTES keeps small, so that the next requests
are affected by anything that a bad adapter leaves there."""
KV_CACHE_BYTES = 96 << 20
MAX_MODEL_LEN = 1024


@dataclass(frozen=True)
class ServerUnderTest:
    """One running server, its models and its clients."""

    name: str
    adapter_api: AdapterApi
    client: ChatClient
    base: Path
    folder: Path
    """Folder that the server may read adapters from."""
    copies: Path | None
    """Folder of the server's own copies, if it has them."""
    numbers: Iterator[int]

    async def answers(self) -> list[str | None]:
        """Return the answers of the base and the good adapter to fixed questions; None for a failed request."""
        replies: list[ChatReply] = []
        for model, question in itertools.product((self.base.name, GOOD_ADAPTER), QUESTIONS):
            if replies and not replies[-1].status:
                replies.append(replies[-1])  # the server does not answer: don't wait for more timeouts
            else:
                replies.append(await self.ask(model, question))
        return [reply.text if reply.ok else None for reply in replies]

    async def ask(self, model: str, text: str = QUESTIONS[0]) -> ChatReply:
        """Request one answer with greedy decoding."""
        return await self.client.chat(model, [{"role": "user", "content": text}], max_tokens=TOKENS)

    async def overwrite_kv_cache(self, model: str) -> list[ChatReply]:
        """Let a model write every block of the KV cache."""
        texts = random_prompts(FILLING_PROMPTS, default_rng(next(self.numbers)), FILLING_NUMBERS)
        return await asyncio.gather(*(self.ask(model, text) for text in texts))

    def new_candidate(self) -> CandidateAdapter:
        """Write a sound adapter with its own content, to be corrupted."""
        number = next(self.numbers)
        folder = write_sound_adapter(self.folder / f"case-{number}", self.base, number)
        return CandidateAdapter(folder, self.base, self.folder.with_name("outside"), f"bad-{number}", str(folder))

    async def evict_others(self) -> None:
        """Evict all adapters from the engine by requests for the spare ones."""
        for spare in SPARE_ADAPTERS:
            await self.ask(spare)

    def files_of(self, folder: Path, name: str) -> list[Path]:
        """Return the file `name` in an adapter's folder, and every copy of it that the server reads."""
        content = (folder / name).read_bytes()
        copies = self.copies.rglob(name) if self.copies else ()
        return [folder / name, *(path for path in copies if path.read_bytes() == content)]
