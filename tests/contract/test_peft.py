"""Adapters saved by PEFT are accepted, with the same ranks and scalings as in PEFT and vLLM."""

import json
import time
from dataclasses import asdict
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
from loramux_adapters.intake.validation.canonical import canonical_config
from loramux_adapters.intake.validation.config import parse_config
from loramux_adapters.intake.validation.selection import select
from loramux_server.engine.worker.pattern_lookup import match_pattern
from tests.helpers.adapter_files import BASE, SIZES, lora_config

PREFIX = "base_model.model."
ALL = [path.rpartition(".")[2] for path in SIZES.linear_modules]
STOCK_LOOKUP = PEFTHelper._match_pattern


def saved(folder: Path, **choices: Any) -> dict[str, tuple[int, float]]:
    """Save an adapter of BASE with PEFT to `folder`; returns the rank and scaling of each module."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**asdict(SIZES)))
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "init_lora_weights": False, **choices}
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.1
    model.save_pretrained(folder, save_embedding_layers=False)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return {name.removeprefix(PREFIX): (layer.r["default"], layer.scaling["default"]) for name, layer in layers.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": ["self_attn.q_proj", "gate_proj"], "exclude_modules": ["layers.0.mlp.gate_proj"]},
        {"target_modules": r".*\.[01]\..*(q|v)_proj"},
        {"target_modules": ALL, "exclude_modules": r".*\.1\..*"},
        {"layers_to_transform": [0, 2]},
        {"layers_to_transform": 1},
        {"target_modules": ALL, "rank_pattern": {"1.mlp.up_proj": 2, "q_proj": 8, "v_proj": 1}},
        {"alpha_pattern": {"model.layers.2.self_attn.q_proj": 3, "q_proj": 5}, "use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 8}, "alpha_pattern": {"q_proj": 5}},
        {"target_modules": ALL, "rank_pattern": {"^model.layers.0.self_attn.q_proj": 8, "q_proj": 2}},
        {"target_modules": ALL, "alpha_pattern": {r".*\.layers\.1\..*(q_proj|v_proj)$": 3, "layers.1.*": 5}},
        {"target_modules": ["lm_head", "embed_tokens", "q_proj"], "rank_pattern": {"lm_head": 2}},
    ],
)  # fmt: skip
def test_ranks_and_scalings_are_those_of_peft_and_of_vllm(
    tmp_path: Path, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A3, A6: with vLLM's own evaluation of the patterns, and with our lookup in its place."""
    peft = saved(tmp_path, **choices)
    config, _ = canonical_config(json.loads((tmp_path / CONFIG_FILE).read_text()), BASE)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert peft == found_by_us(config)
    for lookup in (STOCK_LOOKUP, match_pattern):
        monkeypatch.setattr(PEFTHelper, "_match_pattern", staticmethod(lookup))
        vllm = PEFTHelper.from_local_dir(str(tmp_path), None)
        assert peft == {path: vllm.get_rank_and_scaling(path) for path in peft}


def found_by_us(values: dict[str, Any]) -> dict[str, tuple[int, float]]:
    config = parse_config(values)
    modules = select(config, BASE).modules
    return {path: (found.rank, config.scaling_of(found.alpha, found.rank)) for path, found in modules.items()}


@pytest.mark.parametrize("choices", [{}, {"target_modules": ALL, "rank_pattern": {"1.mlp.up_proj": 2}}])
def test_what_peft_saves_is_accepted(tmp_path: Path, choices: dict[str, Any]) -> None:
    peft = saved(tmp_path, **choices)
    manifest = validate(tmp_path, BASE, max_rank=8)
    assert {path.rpartition(".")[2] for path in peft} == set(manifest.target_modules)


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj", "lm_head", "model.layers.1.mlp.q_proj_2", ""])
@pytest.mark.parametrize(
    "pattern",
    [
        {},
        {"q_proj": 2, "model.layers.1.self_attn.q_proj": 8},
        {"model.layers.1.self_attn.q_proj": 8, "q_proj": 2},
        {"proj": 1, "1.self_attn.q_proj": 3, "self_attn.q_proj": 4, "lm_head": 5},
    ],
)
def test_the_lookup_finds_what_vllms_evaluation_finds(name: str, pattern: dict[str, int]) -> None:
    assert match_pattern(pattern, name) == STOCK_LOOKUP(pattern, name)


def test_the_lookup_of_560_modules_takes_milliseconds() -> None:
    """A7: vLLM's evaluation takes 16 seconds, because its cache holds 500 expressions."""
    pattern = {f"model.layers.{number // 7}.mlp.{number % 7}_proj": number for number in range(560)}
    started = time.perf_counter()
    assert [match_pattern(pattern, name) for name in pattern] == list(pattern.values())
    assert time.perf_counter() - started < 0.5


def test_vllm_loads_modules_of_different_ranks_with_the_scaling_of_each(tmp_path: Path) -> None:
    peft = saved(tmp_path, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 2})
    helper = PEFTHelper.from_local_dir(str(tmp_path), None)
    loaded = LoRAModel.from_local_checkpoint(str(tmp_path), set(ALL), helper, lora_model_id=1, device="cpu")
    assert peft == {name: (lora.lora_a.shape[0], lora.scaling) for name, lora in loaded.loras.items()}


def test_the_config_that_the_other_tests_use_is_what_peft_writes(tmp_path: Path) -> None:
    saved(tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()).keys() == lora_config().keys()
