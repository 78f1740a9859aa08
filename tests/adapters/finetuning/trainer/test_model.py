"""An adapter that is trained further is loaded as it is served, whoever made it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import Finished, Started
from loramux_adapters.finetuning.recipes.adapter_shape import read_adapter_shape
from tests.helpers.real_trainer import RECIPE, make_inputs, train, training_run
from tests.helpers.tiny_base import DESCRIPTION

pytestmark = pytest.mark.slow

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
STILL = RECIPE.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
"""A recipe that changes nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("further"))


def foreign_adapter(folder: Path, base: Path, **options: Any) -> Path:
    """An adapter of PEFT with random weights, saved by PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(**{"r": 3, "lora_alpha": 5, "task_type": "CAUSAL_LM", "init_lora_weights": False} | options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": r".*\.(1|2)\.self_attn\.(k|o)_proj"},
        {"target_modules": "all-linear", "rank_pattern": {"down_proj": 5}, "alpha_pattern": {"q_proj": 1}},
        {"target_modules": ["up_proj"], "use_rslora": True, "layers_to_transform": [0, 2]},
        {"target_modules": ["gate_proj"], "lora_dropout": 0.5},
    ],
)
def test_an_adapter_of_any_tool_keeps_its_weights_and_its_meaning(folder: Path, options: dict[str, Any]) -> None:
    name = f"adapter-{abs(hash(str(options)))}"
    initial = foreign_adapter(folder / name, folder / "base", **options)
    run = training_run(folder, f"{name}-more", recipe=STILL, initial_adapter=initial)
    started, *_, finished = train(run)
    assert isinstance(finished, Finished)
    before, after = load_file(initial / WEIGHTS), load_file(run.output / WEIGHTS)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.allclose(tensor.bfloat16(), after[key])
    shape = read_adapter_shape(run.output, DESCRIPTION)
    assert shape == read_adapter_shape(initial, DESCRIPTION)
    kept = ("rank_pattern", "alpha_pattern", "use_rslora", "lora_alpha", "r")
    old, new = (json.loads((path / CONFIG).read_text()) for path in (initial, run.output))
    assert {key: old[key] for key in kept} == {key: new[key] for key in kept}
    assert isinstance(started, Started)
    assert started.trained_parameters == sum(tensor.numel() for tensor in before.values())


def test_an_adapter_that_is_trained_further_learns(folder: Path) -> None:
    initial = foreign_adapter(folder / "learns", folder / "base", target_modules=["q_proj", "down_proj"])
    run = training_run(folder, "learned", initial_adapter=initial)
    train(run)
    before, after = load_file(initial / WEIGHTS), load_file(run.output / WEIGHTS)
    assert all(not torch.allclose(tensor.bfloat16(), after[key]) for key, tensor in before.items())


def test_an_adapter_that_would_be_loaded_in_part_is_refused(folder: Path) -> None:
    initial = foreign_adapter(folder / "partial", folder / "base", target_modules=["q_proj", "v_proj"])
    tensors = load_file(initial / WEIGHTS)
    save_file({key.replace("v_proj", "k_proj"): tensor for key, tensor in tensors.items()}, initial / WEIGHTS)
    with pytest.raises(TrainingError, match=r"would leave out a part of the adapter to go on from: .*k_proj"):
        train(training_run(folder, "refused", initial_adapter=initial))


def test_an_adapter_of_another_shape_is_refused(folder: Path) -> None:
    initial = foreign_adapter(folder / "other", folder / "base", target_modules=["q_proj"])
    tensors = load_file(initial / WEIGHTS)
    save_file({key: torch.zeros(3, 3) for key in tensors}, initial / WEIGHTS)
    with pytest.raises(TrainingError, match="PEFT can't load the adapter to go on from"):
        train(training_run(folder, "refused", initial_adapter=initial))
