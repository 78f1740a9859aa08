"""What the engine computes for a mixed batch is what PEFT computes, but for the rounding of 16 bits.

Requests to the base and to all adapters are in one batch, with all slots in use; their prompts are read in pieces, and
they ask for the log-probabilities of their prompts.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
from vllm.config import model

from tests.helpers.peft_adapters import save_adapter
from tests.helpers.tiny_bases.bases import random_model, write_base
from tests.helpers.tiny_engine import largest_error

pytestmark = [pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]

MAX_NATS = 0.03
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LLAMA = {
    "packed": ["q_proj", "v_proj"],
    "embedding": ["embed_tokens", "o_proj"],
    "all": [*ATTENTION, "gate_proj", "up_proj", "down_proj"],
}
GLM = {"fused": ["gate_up_proj", "q_proj"], "all": [*ATTENTION, "gate_up_proj", "down_proj"]}


async def largest_difference(folder: Path, architecture: str, targets: Mapping[str, list[str]]) -> float:
    """Return the largest difference of a token's log-probability, for the base and adapters of these modules."""
    base, peft_base = write_base(folder / "base", architecture), random_model(architecture)
    adapters = {
        name: save_adapter(folder / name, peft_base, seed=seed, r=4, lora_alpha=8, target_modules=modules)
        for seed, (name, modules) in enumerate(targets.items())
    }
    found = await largest_error(base, architecture, adapters, max_num_batched_tokens=32)
    print(f"largest difference: {found:.4f} nats")  # noqa: T201 - a measurement
    return found


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
async def test_adapters_of_packed_layers_and_of_embeddings(tmp_path: Path) -> None:
    assert await largest_difference(tmp_path, "LlamaForCausalLM", LLAMA) < MAX_NATS


async def test_adapters_of_a_layer_that_the_base_has_as_one_and_vllm_as_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GLM-4's MLP, see engine/worker/fused_layers."""
    monkeypatch.delitem(model._FLOAT16_NOT_SUPPORTED_MODELS, "glm4")  # only real weights are too large for it
    assert await largest_difference(tmp_path, "Glm4ForCausalLM", GLM) < MAX_NATS
