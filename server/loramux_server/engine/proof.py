"""Trying a version out on the engine: does it change anything, and does it compute numbers?"""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.pool import AdapterPool
from loramux_adapters.records import ProbeAnswer, Proof, VersionId
from loramux_server.engine.directory import LoraRequests

PROBES = (
    "The capital of France is",
    "Dear customer, thank you for your message. We are sorry to hear that",
    '{"name": "Ada Lovelace", "year": 1815, "known_for": "',
    "def add(a, b):\n    return a + b\n\n",
)
"""Prose, a letter, JSON and code: an adapter that changes none of these changes nothing."""
TOKENS = 12


@dataclass(frozen=True, slots=True)
class _Run:
    """What one route made of one probe: its text, and the log-probability of each of the probe's tokens."""

    text: str
    logprobs: tuple[float, ...]
    corrupted: bool

    @property
    def is_finite(self) -> bool:
        return not self.corrupted and all(math.isfinite(value) for value in self.logprobs)

    def difference(self, other: "_Run") -> float:
        return max((abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True)), default=0.0)


class EngineProver:
    """Asks the base and a version the same things at the same moment.

    Compared are the log-probabilities that both give to the probes' own tokens, not the answers: a good adapter of
    little effect may answer as the base does. The base is asked each time anew, because a batch of another shape sums
    in another order; how much that matters is the noise, from its first run to this one.
    """

    def __init__(self, engine: Any, pool: AdapterPool, requests: LoraRequests) -> None:
        self._engine, self._pool, self._requests = engine, pool, requests
        self._first: list[_Run] = []
        self._numbers = count()

    async def prove(self, version: VersionId) -> Proof:
        """Run the probes; raises AdapterError if the version does not get into the engine."""
        self._first = self._first or await self._ask(None)
        lease = await self._pool.lease(version, served=False)
        try:
            base, adapter = await asyncio.gather(self._ask(None), self._ask(self._requests.of(version)))
        finally:
            lease.release()
        answers = zip(PROBES, base, adapter, strict=True)
        return Proof(
            answers=tuple(ProbeAnswer(prompt=prompt, base=b.text, adapter=a.text) for prompt, b, a in answers),
            difference=_largest(a.difference(b) for a, b in zip(adapter, base, strict=True)),
            noise=_largest(b.difference(first) for b, first in zip(base, self._first, strict=True)),
            finite=all(run.is_finite for run in adapter),
        )

    async def _ask(self, route: LoRARequest | None) -> list[_Run]:
        return await asyncio.gather(*(self._probe(prompt, route) for prompt in PROBES))

    async def _probe(self, prompt: str, route: LoRARequest | None) -> _Run:
        tokens = self._engine.renderer.tokenizer.encode(prompt)
        # Asking for the prompt's log-probabilities also keeps vLLM from answering out of its prefix cache.
        params = SamplingParams(
            temperature=0.0, max_tokens=TOKENS, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        name = f"proof-{next(self._numbers)}"
        async for output in self._engine.generate({"prompt_token_ids": tokens}, params, name, lora_request=route):
            last = output
        given = zip(tokens[1:], last.prompt_logprobs[1:], strict=True)
        return _Run(
            text=last.outputs[0].text,
            logprobs=tuple(choices[token].logprob for token, choices in given),
            corrupted=bool(last.metrics and last.metrics.is_corrupted),
        )


def _largest(differences: Iterable[float]) -> float:
    """The largest of them, or infinity where one is no number."""
    return max((value if math.isfinite(value) else math.inf for value in differences), default=0.0)
