"""The base with an enormous number that only one adapter reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.gpu.checked_base import ENORMOUS, NAN, CheckedModels, write_models
from benchmarks.gpu.shapes import TINY

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 98}}, "added_tokens": [{"id": 99}]}
LARGEST_BFLOAT16 = 3.3895e38


@pytest.fixture
def models(tmp_path: Path) -> CheckedModels:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return write_models(tmp_path, tmp_path / "tokenizer", TINY, "bfloat16")


def test_the_bases_weights_are_exact_in_bfloat16_and_ignore_the_enormous_number(models: CheckedModels) -> None:
    weights = load_file(models.base / "model.safetensors")
    assert all((each.view(np.uint32) & 0xFFFF == 0).all() for each in weights.values())
    assert weights["model.layers.0.input_layernorm.weight"][0] == pytest.approx(ENORMOUS, rel=0.01)
    assert not any(weights[f"model.layers.0.self_attn.{part}_proj.weight"][:, 0].any() for part in "qkv")
    assert ENORMOUS * 4096**0.5 < LARGEST_BFLOAT16


def test_only_the_adapter_that_computes_nan_reads_the_enormous_number(models: CheckedModels) -> None:
    assert models.adapters.keys() == {"s0", "s1", "s2", "s3", NAN}
    for name, folder in models.adapters.items():
        weights = load_file(folder / "adapter_model.safetensors")
        read = [
            key for key, each in weights.items() if ".layers.0.self_attn." in key and "lora_A" in key
            and "o_proj" not in key and each[:, 0].any()
        ]  # fmt: skip
        assert bool(read) == (name == NAN)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert len(weights) == 2 * len(config["target_modules"]) * len(config["layers_to_transform"])


def test_its_product_is_infinite_with_both_signs(models: CheckedModels) -> None:
    weights = load_file(models.nan / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"
    with np.errstate(over="ignore", invalid="ignore"):
        shrunk = weights[key][:, 0] * np.float32(ENORMOUS) * np.float32(0.01)
        assert np.isposinf(shrunk).all()
        assert np.isnan(weights[key.replace("lora_A", "lora_B")] @ shrunk).mean() > 0.9


def test_all_adapters_are_within_the_limits_of_what_is_accepted(models: CheckedModels) -> None:
    from loramux_adapters.intake.validation.values import MAX_PRODUCT, MAX_VALUE

    for folder in models.adapters.values():
        weights = load_file(folder / "adapter_model.safetensors")
        for key in (key for key in weights if "lora_A" in key):
            a, b = (np.abs(weights[each]).max() for each in (key, key.replace("lora_A", "lora_B")))
            assert (a <= MAX_VALUE, 2 * b <= MAX_VALUE, 2 * a * b <= MAX_PRODUCT) == (True, True, True)
