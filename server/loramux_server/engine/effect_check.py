"""Trying a version out on the engine: does it change anything, and does it compute numbers?"""

import asyncio
import math
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.models import ProbeAnswer, Proof, VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_server.engine.lora_directory import LoraRequests

PROBES = (
    "The capital of France is",
    "Dear customer, thank you for your message. We are sorry to hear that",
    '{"name": "Ada Lovelace", "year": 1815, "known_for": "',
    "def add(a, b):\n    return a + b\n\n",
)
"""Prose, a letter, JSON and code: an adapter that changes none of these changes nothing."""
TOKENS = 8


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
        """The largest difference in nats, of those that are numbers."""
        differences = (abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True))
        return max(filter(math.isfinite, differences), default=0.0)


class EngineProver:
    """Asks the base and a version the same things at the same moment, one after the other as a user would.

    Compared are the log-probabilities that both give to the probes' own tokens, not the answers: a good adapter of
    little effect may answer as the base does. The base is asked each time anew, because a batch of another shape may
    sum in another order; how much that matters is the noise, from its first run to this one.
    """

    def __init__(self, engine: Any, pool: AdapterPool, requests: LoraRequests) -> None:
        self._engine, self._pool, self._requests = engine, pool, requests
        self._first: dict[str, _Run] = {}
        self._numbers = count()

    async def prove(self, version: VersionId) -> Proof:
        """Run the probes; raises AdapterError if the version does not get into the engine."""
        for prompt in PROBES:
            if prompt not in self._first:
                self._first[prompt] = await self._ask(prompt, None)
        lease = await self._pool.lease(version, served=False)
        try:
            route = self._requests.of(version)
            runs = [await asyncio.gather(self._ask(prompt, None), self._ask(prompt, route)) for prompt in PROBES]
        finally:
            lease.release()
        answers = list(zip(PROBES, runs, strict=True))
        return Proof(
            answers=tuple(ProbeAnswer(prompt=prompt, base=b.text, adapter=a.text) for prompt, (b, a) in answers),
            difference=max(adapter.difference(base) for base, adapter in runs),
            noise=max(base.difference(self._first[prompt]) for prompt, (base, _) in answers),
            finite=all(adapter.is_finite for _, adapter in runs),
        )

    async def _ask(self, prompt: str, route: LoRARequest | None) -> _Run:
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
