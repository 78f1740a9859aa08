"""Adapters of experts that PEFT saves: names, shapes and ranks are those that the base's description expects."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, PreTrainedConfig, Qwen3MoeConfig

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.normalization import normalize
from loramux_adapters.intake.validation import validate
from loramux_adapters.intake.validation.config import parse_config
from loramux_adapters.intake.validation.selection import select
from loramux_adapters.models import BaseSpec
from loramux_server.engine.describing.peft_view import peft_modules

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # of PEFT, about patterns

SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": None,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "Qwen3MoeForCausalLM": Qwen3MoeConfig(**SIZES, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2),
    "MixtralForCausalLM": MixtralConfig(**SIZES, num_local_experts=4),
    "GptOssForCausalLM": GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
}
BOTH = ["experts.gate_up_proj", "experts.down_proj"]


def base_of(architecture: str) -> BaseDescription:
    config = CONFIGS[architecture]
    config.architectures = [architecture]
    spec = BaseSpec(name="tiny", architecture=architecture, hidden_size=16, num_hidden_layers=2, vocab_size=64)
    return BaseDescription.of(peft_modules(config), spec=spec, parameters=1)


def save(architecture: str, folder: Path, **choices: Any) -> dict[str, tuple[int, float]]:
    """Save an adapter with PEFT; returns the rank and scaling of each module."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_config(CONFIGS[architecture]),
        LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, "target_modules": [], **choices}),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.1
    model.save_pretrained(folder)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer | ParamWrapper)}
    return {
        name.removeprefix("base_model.model."): (layer.r["default"], layer.scaling["default"])
        for name, layer in layers.items()
    }


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(
    "choices",
    [
        {"target_parameters": BOTH},
        {"target_parameters": [f"1.mlp.{name}" for name in BOTH], "target_modules": ["q_proj"]},
        {"target_parameters": BOTH, "rank_pattern": {"experts.gate_up_proj": 2}, "use_rslora": True},
        {"target_parameters": BOTH, "alpha_pattern": {"layers.0.*down_proj": 3}},
        {"target_modules": "all-linear"},  # PEFT makes target_parameters of it, and an expression for twice the rank
    ],
)
def test_the_experts_that_peft_adapts_are_accepted_with_their_ranks(
    tmp_path: Path, architecture: str, choices: dict[str, Any]
) -> None:
    base = base_of(architecture)
    peft = save(architecture, tmp_path / "adapter", **choices)
    assert peft
    normalize(tmp_path / "adapter", base, None)
    validate(tmp_path / "adapter", base, max_rank=8)
    config = parse_config(json.loads((tmp_path / "adapter" / CONFIG_FILE).read_text()))
    found = select(config, base).modules
    assert {path: (each.rank, config.scaling_of(each.alpha, each.rank)) for path, each in found.items()} == peft


@pytest.mark.parametrize("target", BOTH)
def test_one_matrix_of_the_experts_alone_is_refused(tmp_path: Path, target: str) -> None:
    """PEFT names the tensors of either one alone as vLLM names those of the second."""
    base = base_of("Qwen3MoeForCausalLM")
    save("Qwen3MoeForCausalLM", tmp_path / "adapter", target_parameters=[target])
    with pytest.raises(InvalidAdapter, match="all matrices of a layer's experts or none"):
        normalize(tmp_path / "adapter", base, None)
        validate(tmp_path / "adapter", base, max_rank=8)
