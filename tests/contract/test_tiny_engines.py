"""The real engine on bases with random weights, in float32: what it computes on a CPU is what PEFT computes.

Requests to the base and to all adapters are in one batch, with all slots in use, and ask for their prompts'
log-probabilities too.
"""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from vllm.platforms import current_platform

from loramux_adapters.intake.content import WEIGHTS_FILE
from tests.helpers.peft_adapters import save_adapter
from tests.helpers.tiny_bases.bases import random_model, write_base
from tests.helpers.tiny_engine import largest_error

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not current_platform.is_cpu(), reason="vLLM's own code serves them on other devices"),
]

MAX_NATS = 2e-3
"""The largest difference of a token's log-probability."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


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
