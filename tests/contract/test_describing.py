"""A base describes itself as the libraries have it; the rest of vLLM's architectures are in tests/matrix."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from loramux_adapters.base_description import BaseDescription
from loramux_server.base_model import ResolvedBase
from loramux_server.described_base import describe_base
from loramux_server.engine.describing.vllm_view import expert_shapes
from loramux_server.engine.worker.fused_layers import with_fused_layers
from loramux_server.settings import Settings
from tests.helpers.tiny_base import DESCRIPTION, make_base
from tests.helpers.tiny_bases.bases import write_base

pytestmark = pytest.mark.slow


def described(folder: Path, tmp_path: Path) -> BaseDescription:
    return describe_base(ResolvedBase(folder, folder.name), Settings(data_dir=tmp_path / "data"))


def test_a_llama_is_described_as_the_tests_describe_it(tmp_path: Path) -> None:
    found = described(make_base(tmp_path / "Tiny-Base"), tmp_path)
    assert found.modules == DESCRIPTION.modules
    assert list(found.linear) == list(DESCRIPTION.linear)
    assert found.parameters == DESCRIPTION.parameters + 16 * (2 * 3 + 1)  # the norms
    assert found.spec.matches(DESCRIPTION.spec)
    assert found.spec.modules_digest is not None
    assert found.can_checkpoint


def test_a_mistral_without_a_number_of_kv_heads_has_that_of_transformers(tmp_path: Path) -> None:
    """A9: transformers' default is 8 key-value heads, not as many as there are query heads."""
    folder = write_base(tmp_path / "mistral", "MistralForCausalLM", num_attention_heads=16, num_key_value_heads=8)
    config = folder / "config.json"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "num_key_value_heads" not in line))
    found = described(folder, tmp_path)
    queries, keys = (found.modules[f"model.layers.0.self_attn.{name}"].outputs for name in ("q_proj", "k_proj"))
    assert queries == 2 * keys


def test_packed_layers_have_the_names_of_peft(tmp_path: Path) -> None:
    """A1: Phi-3 has fused layers, which its adapters name as such."""
    found = described(write_base(tmp_path / "phi", "Phi3ForCausalLM"), tmp_path)
    names = {path.rpartition(".")[2] for path in found.linear}
    assert names == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"gate_up_proj", "q_proj"}, {"qkv_proj": ["q_proj", "k_proj"], "gate_up_proj": ["gate_up_proj"]}),
        ({"gate_proj", "up_proj"}, {"qkv_proj": ["q_proj", "k_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}),
        ({"gate_up_proj", "up_proj"}, {"qkv_proj": ["q_proj", "k_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}),
        (set(), {"qkv_proj": ["q_proj", "k_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}),
    ],
)
def test_a_layer_that_the_base_has_as_one_is_taken_as_one(names: set[str], expected: dict[str, list[str]]) -> None:
    packed = {"qkv_proj": ["q_proj", "k_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    assert with_fused_layers(packed, names) == expected


def test_fused_layers_that_vllm_does_not_know_of_are_served(tmp_path: Path) -> None:
    """GLM-4's MLP is one layer; vLLM 0.32 expects adapters of its parts."""
    found = described(write_base(tmp_path / "glm", "Glm4ForCausalLM"), tmp_path)
    assert found.modules["model.layers.0.mlp.gate_up_proj"].refusal is None


def test_a_base_without_adapters_in_vllm_says_so(tmp_path: Path) -> None:
    """A1: it is served alone."""
    found = described(write_base(tmp_path / "gpt2", "GPT2LMHeadModel"), tmp_path)
    assert found.refusal
    assert "GPT2LMHeadModel without adapters" in found.refusal
    assert found.served == found.linear == {}


WITHOUT_HEADS = """\
import pathlib, sys
from loramux_server.engine.describing.description import describe
from loramux_server.engine.worker.gpu_heads import install_gpu_heads
install_gpu_heads()
found = describe(pathlib.Path(sys.argv[1]), "tiny", {}, {})
print([path for path, module in found.modules.items() if module.refusal])
"""


def test_heads_are_not_adapted_on_a_gpu(tmp_path: Path) -> None:
    """GPU-3: vLLM 0.32 writes beyond its arrays if a prompt's log-probabilities are asked for next to adapters."""
    command = [sys.executable, "-c", WITHOUT_HEADS, str(make_base(tmp_path / "base"))]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "['lm_head']"


def test_experts_are_described_one_by_one_where_vllm_takes_them_so() -> None:
    """On a GPU, vLLM adapts each expert of most bases by itself, as older releases of transformers name them."""
    parts = [f"experts.{number}.{name}" for number in range(2) for name in ("gate_proj", "down_proj", "up_proj")]
    a, b = (
        [torch.zeros(4, inputs) for inputs in (8, 6, 8)] * 4,
        [torch.zeros(outputs, 4) for outputs in (6, 8, 6)] * 4,
    )
    manager = SimpleNamespace(
        modules={"model.layers.0.mlp.experts": SimpleNamespace(lora_a_stacked=a, lora_b_stacked=b)},
        packed_modules={"model.layers.0.mlp.experts": [f"model.layers.0.mlp.{part}" for part in parts]},
    )
    shapes = dict(expert_shapes("model.layers.0.mlp.experts", manager))
    assert list(shapes) == parts
    assert (shapes["experts.1.gate_proj"], shapes["experts.1.down_proj"]) == ((8, 6), (6, 8))
