"""What real PEFT and PyTorch write besides plain LoRA files is normalised to what PEFT writes for a plain one."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.normalization import normalize
from loramux_adapters.intake.validation import validate
from tests.helpers.adapter_files import BASE, SIZES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`"),
]
EMBEDDINGS = ["embed_tokens", "lm_head"]


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def base_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**asdict(SIZES), tie_word_embeddings=request.param))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base", max_shard_size="5KB")
    return tmp_path / "base"


def adapted(base_folder: Path, dtype: torch.dtype = torch.float32, **choices: Any) -> PeftModel:
    base = LlamaForCausalLM.from_pretrained(base_folder, dtype=dtype)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **choices}
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.1
    return model


def expected(model: PeftModel) -> dict[str, torch.Tensor]:
    """The matrices of the LoRA alone."""
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor for name, tensor in found.items() if "lora_" in name}


def check(folder: Path, base_folder: Path, tensors: dict[str, torch.Tensor]) -> list[str]:
    notes = normalize(folder, BASE, base_folder)
    written = load_file(folder / WEIGHTS_FILE)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    validate(folder, BASE, max_rank=8)
    return notes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "choices",
    [
        {"modules_to_save": EMBEDDINGS},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "norm"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_modules_that_peft_saved_and_nobody_trained_are_left_out(
    tmp_path: Path, base_folder: Path, choices: dict[str, Any], dtype: torch.dtype
) -> None:
    """A13: saved embeddings equal to the base's."""
    model = adapted(base_folder, dtype, **choices)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    check(tmp_path / "adapter", base_folder, expected(model))


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_modules_that_were_trained_are_refused_by_their_true_name(tmp_path: Path, base_folder: Path, name: str) -> None:
    """A5: modules_to_save that were trained."""
    model = adapted(base_folder, modules_to_save=[name])
    for key, parameter in model.named_parameters():
        if "modules_to_save" in key:
            parameter.data[3, 5] += 0.01
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InvalidAdapter, match=rf"{name}.*fully trained \(modules_to_save\)"):
        normalize(tmp_path / "adapter", BASE, base_folder)


def test_a_resized_vocabulary_is_refused_by_its_true_name(tmp_path: Path, base_folder: Path) -> None:
    """A13: resized embeddings."""
    model = adapted(base_folder)
    model.base_model.model.resize_token_embeddings(SIZES.vocab_size + 3)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with pytest.raises(InvalidAdapter, match="the vocabulary was resized"):
        normalize(tmp_path / "adapter", BASE, base_folder)


def raw_state(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name}


FORMS: dict[str, Callable[[PeftModel], dict[str, torch.Tensor]]] = {
    "state_dict": raw_state,
    "trainable parameters": lambda model: {n: p.data for n, p in model.named_parameters() if p.requires_grad},
    "torch.compile": lambda model: raw_state(torch.compile(model)),
    "torch.compile of layers": lambda model: raw_state(_compile_layers(model)),
    "of the inner model": lambda model: {
        name.removeprefix("base_model.model."): tensor for name, tensor in raw_state(model).items()
    },
}


def _compile_layers(model: PeftModel) -> PeftModel:
    layers = model.base_model.model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = torch.compile(layer)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_that_were_saved_directly_are_accepted(tmp_path: Path, base_folder: Path, form: str) -> None:
    """A12: `.default.` and `_orig_mod.`"""
    model = adapted(base_folder)
    model.save_pretrained(tmp_path / "adapter")
    tensors = expected(model)
    state = FORMS[form](model)
    assert state.keys().isdisjoint(tensors)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "adapter" / WEIGHTS_FILE)
    before = (tmp_path / "adapter" / "adapter_config.json").read_bytes()
    [note] = check(tmp_path / "adapter", base_folder, tensors)
    assert "renamed" in note
    assert (tmp_path / "adapter" / "adapter_config.json").read_bytes() == before
