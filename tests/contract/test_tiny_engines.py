"""The real engine on bases with random weights, in float32: what it computes on a CPU is what PEFT computes.

Requests to the base and to all adapters are in one batch, with all slots in use, and ask for their prompts'
log-probabilities too.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.startup import vllm_engine
from loramux_server.machine import engine_defaults, engine_environment, installed_backend, this_machine
from tests.helpers.logprobs import Reference, ScoredTokens
from tests.helpers.peft_adapters import save_adapter
from tests.helpers.tiny_bases.bases import random_model, write_base

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not current_platform.is_cpu(), reason="vLLM's own code serves them on other devices"),
]

MAX_NATS = 2e-3
"""The largest difference of a token's log-probability."""
PROMPTS = (range(20, 44), range(60, 63), range(200, 120, -3))
ANSWER_TOKENS = 12
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@asynccontextmanager
async def engine_of(base: Path, **options: Any) -> AsyncIterator[Any]:
    """Start the engine with `options`, as `loramux serve` does."""
    before, machine, backend = dict(os.environ), this_machine(base), installed_backend()
    os.environ.update(engine_environment(machine, backend))
    small = {"dtype": "float32", "max_model_len": 256, "kv_cache_memory_bytes": 64 << 20, "max_lora_rank": 8}
    defaults = engine_defaults(machine, backend, demo=False) | small
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


def rounded(folder: Path) -> Path:
    """Round an adapter's values to bfloat16, which then loses nothing; drop saved embeddings."""
    weights = folder / WEIGHTS_FILE
    values = {name: value for name, value in load_file(weights).items() if ".lora_" in name}
    save_file({name: value.bfloat16().float() for name, value in values.items()}, weights)
    return folder


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
async def test_adapters_of_another_type_with_and_without_heads_and_embeddings(tmp_path: Path) -> None:
    """A2, A6: the first request to an adapter stopped the engine; heads had no effect."""
    base, model = write_base(tmp_path / "base", "LlamaForCausalLM"), random_model("LlamaForCausalLM")
    targets = {
        "attention": ATTENTION,
        "head": ["lm_head"],
        "embedding": ["embed_tokens"],
        "all": ["lm_head", "embed_tokens", *ATTENTION, "gate_proj", "up_proj", "down_proj"],
    }
    adapters = {
        name: rounded(save_adapter(tmp_path / name, model, seed=seed, r=4, lora_alpha=8, target_modules=modules))
        for seed, (name, modules) in enumerate(targets.items())
    }
    # Prompts are read in chunks, so that one request's rows of logits are not all of a step's.
    options = {"lora_dtype": "bfloat16", "max_num_batched_tokens": 32, "max_num_seqs": 16}
    assert await largest_error(base, "LlamaForCausalLM", adapters, **options) < MAX_NATS


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "MixtralForCausalLM"])
async def test_a_base_with_experts_serves_itself_and_adapters_of_the_attention(
    tmp_path: Path, architecture: str
) -> None:
    """A1: the first request stopped the engine, as it does in vLLM."""
    base, model = write_base(tmp_path / "base", architecture), random_model(architecture)
    adapters = {
        name: save_adapter(tmp_path / name, model, seed=seed, r=4, lora_alpha=8, target_modules=ATTENTION)
        for seed, name in enumerate(("one", "other"))
    }
    assert await largest_error(base, architecture, adapters) < MAX_NATS
