"""The real engine of the tests without its adapters, and a loader of generated ones."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.lora_directory import LoraRequests
from tests.conftest import RealServer
from tests.helpers.adapter_files import lora_config, tensors_for, write_adapter
from tests.helpers.cuda_path.environment import is_cuda_path

PROMPT = [504, 3575, 282, 4649, 314]
MAX_LORAS, MAX_CPU_LORAS = 2, 3
"""Limits of the shared engine: adapters in a batch, and in host memory."""
LONG_ANSWER = 20 if is_cuda_path() else 60
"""Tokens that take seconds, on each of the engines."""
NUMBERS = count(1_000_000)
"""Adapter ids above those of the server, which shares the engine."""
STRENGTH = 0.15
"""The size of the test weights: large enough to change answers, small enough to keep them plausible."""
Answer = TypeVar("Answer")


class EngineBench:
    """The shared engine, and a loader of generated adapters."""

    def __init__(self, real: RealServer, folder: Path) -> None:
        self.engine = real.engine
        self._base = real.base
        self._folder = folder
        self._prompt = [token % real.base.spec.vocab_size for token in PROMPT]
        self.requests = LoraRequests(self, real.base.name)
        self.requests._next_id = NUMBERS
        self.loader = EngineLoader(real.engine, self.requests, lambda _: None)

    def resolve(self, name: str, split_key: str | None) -> VersionId | None:
        return None

    def path(self, version: VersionId) -> Path:
        return self._folder / version.name

    def version(
        self,
        name: str,
        *,
        seed: int = 0,
        rank: int = 8,
        digest: str = "0123456789ab",
        modules: Collection[str] = (),
        fill: float | None = None,
    ) -> VersionId:
        """Write an adapter of all linear modules or of those called `modules`, strong enough to change every answer.

        With `fill`, all its values are the same.
        """
        strength = np.float32(STRENGTH * (8 / rank) ** 0.5)
        tensors = tensors_for(self._base, modules, rank=rank, seed=seed)
        strong = {key: np.sign(value) * strength for key, value in tensors.items()}
        if fill is not None:
            strong = {key: np.full_like(value, fill) for key, value in tensors.items()}
        targets = list(modules) or "all-linear"
        write_adapter(self._folder / name, lora_config(r=rank, lora_alpha=2 * rank, target_modules=targets), strong)
        return VersionId(AdapterName(name), Digest(digest))

    async def ask(self, version: VersionId | None, tokens: int = 8) -> list[tuple[int, float]]:
        """Return the tokens of the answer, each with its log-probability."""
        (answer,) = (await self.generate(version, tokens)).outputs
        return [(token, given[token].logprob) for token, given in zip(answer.token_ids, answer.logprobs, strict=True)]

    async def generate(self, version: VersionId | None, tokens: int = 8, **options: Any) -> RequestOutput:
        """Return vLLM's output for the prompt, or that in `options`, which are of SamplingParams otherwise."""
        prompt = options.pop("prompt", self._prompt)
        params = SamplingParams(
            max_tokens=tokens,
            ignore_eos=True,
            temperature=0.0,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **options,
        )
        outputs = self.engine.generate(
            {"prompt_token_ids": prompt}, params, f"ask-{next(NUMBERS)}", lora_request=self._lora(version)
        )
        async for output in outputs:
            last = output
        return last

    async def together(self, *requests: Coroutine[Any, Any, Answer]) -> list[Answer]:
        """Return the answers of requests that the engine computes in the same steps."""
        await self.engine.pause_generation(mode="keep", clear_cache=False)  # all wait, and then start at once
        tasks = [asyncio.create_task(request) for request in requests]
        await asyncio.sleep(0.3)  # until the scheduler, in the engine's process, has them
        await self.engine.resume_generation()
        return await asyncio.gather(*tasks)

    def _lora(self, version: VersionId | None) -> LoRARequest | None:
        return None if version is None else self.requests.of(version)

    async def in_memory(self) -> set[int]:
        """Return the ids of the adapters in the engine's host memory."""
        return set(await self.engine.list_loras())


@asynccontextmanager
async def engine_bench(real: RealServer, folder: Path) -> AsyncIterator[EngineBench]:
    """Empty the shared engine before and after a test."""
    service = real.server.adapter_service
    for record in service.resolver.adapters():
        for version in record.versions:
            service.pool.discard(version.id)
    while await real.engine.list_loras():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)
    yield EngineBench(real, folder)
    for number in await real.engine.list_loras():
        await real.engine.remove_lora(number)


def tokens(answer: list[tuple[int, float]]) -> list[int]:
    return [token for token, _ in answer]
