"""The real engine on bases with random weights, and how far its log-probabilities are from PEFT's.

It is started as `loramux serve` starts it; in a process of the CUDA path, with what that path needs.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.startup import vllm_engine
from loramux_server.machine import engine_defaults, engine_environment, installed_backend, this_machine
from tests.helpers.cuda_path.engine import OPTIONS
from tests.helpers.cuda_path.environment import is_cuda_path
from tests.helpers.logprobs import Reference, ScoredTokens

PROMPTS = (range(20, 44), range(60, 63), range(200, 120, -3))
ANSWER_TOKENS = 12


@asynccontextmanager
async def engine_of(base: Path, **options: Any) -> AsyncIterator[Any]:
    """Start the engine with `options`, as `loramux serve` does."""
    before, machine, backend = dict(os.environ), this_machine(base), installed_backend()
    os.environ.update(engine_environment(machine, backend))
    small = {"dtype": "float32", "max_model_len": 256, "kv_cache_memory_bytes": 64 << 20, "max_lora_rank": 8}
    defaults = engine_defaults(machine, backend, demo=False) | small | (OPTIONS if is_cuda_path() else {})
    async with vllm_engine(engine_arguments(base, "tiny", defaults | options)) as engine:
        yield engine
    os.environ.clear()
    os.environ.update(before)


async def ask(engine: Any, number: str, prompt: range, lora: LoRARequest | None) -> ScoredTokens:
    """Return the tokens of prompt and answer with the engine's log-probabilities."""
    params = SamplingParams(
        temperature=0,
        max_tokens=ANSWER_TOKENS,
        ignore_eos=True,
        logprobs=0,
        prompt_logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    async for output in engine.generate({"prompt_token_ids": list(prompt)}, params, number, lora_request=lora):
        last = output
    (answer,) = last.outputs
    tokens = (*prompt, *answer.token_ids)
    given = [*last.prompt_logprobs[1:], *answer.logprobs]
    return ScoredTokens(tokens, tuple(entry[token].logprob for token, entry in zip(tokens[1:], given, strict=True)))


async def largest_error(base: Path, architecture: str, adapters: Mapping[str, Path], **options: Any) -> float:
    """Return the largest difference of a token's log-probability between the engine and PEFT."""
    loras = [LoRARequest(name, number, str(path)) for number, (name, path) in enumerate(adapters.items(), start=1)]
    routes = [None, *loras]
    slots = {"max_loras": len(loras), "max_cpu_loras": len(loras), "enable_prefix_caching": False}
    async with engine_of(base, **slots | options) as engine:
        requests = [(route, prompt) for prompt in PROMPTS for route in routes]
        given = await asyncio.gather(
            *(ask(engine, str(number), prompt, route) for number, (route, prompt) in enumerate(requests))
        )
    reference, worst = Reference(base, architecture, torch.float32), 0.0
    for route in routes:
        sequences = [scored for scored, (of, _) in zip(given, requests, strict=True) if of is route]
        expected = reference.score(adapters[route.lora_name] if route else None, sequences)
        found = torch.cat([torch.tensor(sequence.logprobs) for sequence in sequences])
        worst = max(worst, float((found - expected).abs().max()))
    return worst
