"""Measures the engine's time per input token and per output token, by requests that nobody is charged for."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from statistics import median
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_server.metering.ledger.calibrations import Calibration

STREAMS = 4
"""Concurrent requests."""
SHORT_PROMPT, LONG_PROMPT, LONG_ANSWER = 8, 256, 32
ROUNDS, MAX_SECONDS = 3, 5.0
"""At least one round is measured; no further one begins after MAX_SECONDS."""


@dataclass(frozen=True)
class EngineCalibration:
    """Measures on the base of an engine, which must be idle; a cancelled measurement aborts its requests."""

    engine: Any
    clock: Callable[[], float] = time.monotonic
    unix_clock: Callable[[], float] = time.time

    async def __call__(self) -> Calibration | None:
        """Return the calibration, None if long requests were not slower than short ones."""
        await self._seconds(SHORT_PROMPT, 2)  # the first steps after a pause are slow
        started, prefills, decodes = self.clock(), list[float](), list[float]()
        while not prefills or (len(prefills) < ROUNDS and self.clock() - started < MAX_SECONDS):
            first = await self._seconds(SHORT_PROMPT, 1)
            longer = await self._seconds(self._long_prompt, 1) - first
            prefills.append(longer / (self._long_prompt - SHORT_PROMPT) / STREAMS)
            decodes.append((await self._seconds(SHORT_PROMPT, LONG_ANSWER) - first) / (LONG_ANSWER - 1) / STREAMS)
        if min(*prefills, *decodes) <= 0:
            return None
        return Calibration(
            at=self.unix_clock(),
            prefill_seconds=median(prefills),
            decode_seconds=median(decodes),
            lowest=min(decodes) / max(prefills),
            highest=max(decodes) / min(prefills),
        )

    @property
    def _long_prompt(self) -> int:
        return int(min(LONG_PROMPT, self.engine.model_config.max_model_len // 2))

    async def _seconds(self, prompt: int, output: int) -> float:
        """Return how long a round of STREAMS requests takes, with prompts and answers of these lengths."""
        started = self.clock()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(STREAMS):
                tasks.create_task(self._ask(prompt, output))
        return self.clock() - started

    async def _ask(self, prompt: int, output: int) -> None:
        vocabulary = self.engine.model_config.get_vocab_size()
        tokens = [random.randrange(vocabulary) for _ in range(prompt)]  # noqa: S311 - new, so that none is cached
        params = SamplingParams(
            max_tokens=output, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        name = f"calibration-{uuid.uuid4().hex}"
        async with aclosing(self.engine.generate({"prompt_token_ids": tokens}, params, name)) as outputs:
            async for _ in outputs:
                pass
