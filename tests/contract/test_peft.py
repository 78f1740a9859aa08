"""Adapters saved by PEFT are accepted, with the same ranks and scalings as in PEFT and vLLM."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation import validate
from loramux_adapters.intake.validation.config import read_config
from loramux_adapters.models import LINEAR_MODULES
from tests.helpers.adapter_files import BASE, lora_config

PREFIX = "base_model.model."


def saved(folder: Path, **choices: Any) -> dict[str, tuple[int, float]]:
    """Save an adapter of BASE with PEFT to `folder`; returns the rank and scaling of each module."""
    torch.manual_seed(0)
    shapes = BASE.model_dump(exclude={"name", "architecture"})
    base = LlamaForCausalLM(LlamaConfig(**shapes))
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "init_lora_weights": False, **choices}
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.1
    model.save_pretrained(folder)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return {name.removeprefix(PREFIX): (layer.r["default"], layer.scaling["default"]) for name, layer in layers.items()}


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": ["self_attn.q_proj", "gate_proj"], "exclude_modules": ["layers.0.mlp.gate_proj"]},
        {"target_modules": r".*\.[01]\..*(q|v)_proj"},
        {"target_modules": list(LINEAR_MODULES), "exclude_modules": r".*\.1\..*"},
        {"layers_to_transform": [0, 2]},
        {"layers_to_transform": 1},
        {"target_modules": list(LINEAR_MODULES), "rank_pattern": {"1.mlp.up_proj": 2, "q_proj": 8, "v_proj": 1}},
        {"alpha_pattern": {"model.layers.2.self_attn.q_proj": 3, "q_proj": 5}, "use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 8}, "alpha_pattern": {"q_proj": 5}},
    ],
)  # fmt: skip
def test_ranks_and_scalings_are_those_of_peft_and_of_vllm(tmp_path: Path, choices: dict[str, Any]) -> None:
    peft = saved(tmp_path, **choices)
    manifest = validate(tmp_path, BASE, max_rank=8)
    with (tmp_path / CONFIG_FILE).open("rb") as file:
        config = read_config(file, max_rank=8)
    vllm = PEFTHelper.from_local_dir(str(tmp_path), None)
    assert peft == {path: (config.rank_of(path), config.scaling_of(path)) for path in peft}
    assert peft == {path: vllm.get_rank_and_scaling(path) for path in peft}
    assert {path.rpartition(".")[2] for path in peft} == set(manifest.target_modules)


def test_vllm_loads_modules_of_different_ranks_with_the_scaling_of_each(tmp_path: Path) -> None:
    peft = saved(tmp_path, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 2})
    helper = PEFTHelper.from_local_dir(str(tmp_path), None)
    loaded = LoRAModel.from_local_checkpoint(str(tmp_path), set(LINEAR_MODULES), helper, lora_model_id=1, device="cpu")
    assert peft == {name: (lora.lora_a.shape[0], lora.scaling) for name, lora in loaded.loras.items()}


def test_the_config_that_the_other_tests_use_is_what_peft_writes(tmp_path: Path) -> None:
    saved(tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()).keys() == lora_config().keys()
