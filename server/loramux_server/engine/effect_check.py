"""Checks a version on the engine: whether it has an effect, and whether it computes NaN or infinite values."""

import asyncio
import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.models import EffectCheck, ProbeAnswer, VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_server.engine.admission import UseEngine
from loramux_server.engine.lora_directory import LoraRequests

PROBES = (
    "The capital of France is",
    "Dear customer, thank you for your message. We are sorry to hear that",
    '{"name": "Ada Lovelace", "year": 1815, "known_for": "',
    "def add(a, b):\n    return a + b\n\n",
)
"""Prose, a letter, JSON and code: an adapter that changes none of these has no effect."""
ANSWER_TOKENS = 8


@dataclass(frozen=True, slots=True)
class _ProbeRun:
    """One run of a probe: the answer, and the log-probability of each token of the probe."""

    text: str
    logprobs: tuple[float, ...]
    corrupted: bool

    @property
    def is_finite(self) -> bool:
        return not self.corrupted and all(math.isfinite(value) for value in self.logprobs)

    def difference(self, other: "_ProbeRun") -> float:
        """Return the largest finite difference of a log-probability, in nats."""
        differences = (abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True))
        return max(filter(math.isfinite, differences), default=0.0)


class EngineEffectChecker:
    """Runs the same probes on the base and on a version at the same time, one probe after the other.

    It compares the log-probabilities of the probes' own tokens, not the answers: an adapter with a small effect may
    answer as the base does. The base runs again each time, because sums in a batch of another shape may differ; the
    noise is the difference between this run of the base and its first one.
    """

    def __init__(self, engine: Any, pool: AdapterPool, requests: LoraRequests, use: UseEngine = nullcontext) -> None:
        self._engine, self._pool, self._requests, self._use = engine, pool, requests, use
        self._baseline: dict[str, _ProbeRun] = {}
        self._request_numbers = count()

    async def check_effect(self, version: VersionId) -> EffectCheck:
        """Run the probes on the base and on the version.

        Raises:
            AdapterError: the engine can't load the version, or it is asleep.
        """
        with self._use():
            return await self._check_effect(version)

    async def _check_effect(self, version: VersionId) -> EffectCheck:
        for prompt in PROBES:
            if prompt not in self._baseline:
                self._baseline[prompt] = await self._run_probe(prompt, None)
        lease = await self._pool.lease(version)
        try:
            lora_request = self._requests.of(version)
            runs = [
                await asyncio.gather(self._run_probe(prompt, None), self._run_probe(prompt, lora_request))
                for prompt in PROBES
            ]
        finally:
            lease.release()
        answers = list(zip(PROBES, runs, strict=True))
        return EffectCheck(
            answers=tuple(ProbeAnswer(prompt=prompt, base=b.text, adapter=a.text) for prompt, (b, a) in answers),
            difference=max(adapter.difference(base) for base, adapter in runs),
            noise=max(base.difference(self._baseline[prompt]) for prompt, (base, _) in answers),
            finite=all(adapter.is_finite for _, adapter in runs),
        )

    async def _run_probe(self, prompt: str, lora_request: LoRARequest | None) -> _ProbeRun:
        tokens = self._engine.renderer.tokenizer.encode(prompt)
        # Prompt log-probabilities also keep vLLM from using its prefix cache.
        params = SamplingParams(
            temperature=0.0, max_tokens=ANSWER_TOKENS, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        request_id = f"effect-check-{next(self._request_numbers)}"
        async for output in self._engine.generate(
            {"prompt_token_ids": tokens}, params, request_id, lora_request=lora_request
        ):
            last = output
        logprobs = zip(tokens[1:], last.prompt_logprobs[1:], strict=True)
        return _ProbeRun(
            text=last.outputs[0].text,
            logprobs=tuple(choices[token].logprob for token, choices in logprobs),
            corrupted=bool(last.metrics and last.metrics.is_corrupted),
        )
