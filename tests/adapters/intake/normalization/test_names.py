"""Names of LoRA tensors as tools write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.normalization.names import TensorNames, renamed
from tests.helpers.adapter_files import BASE, lora_tensors

NAMES = TensorNames(BASE)
Q = "model.layers.0.self_attn.q_proj"
CANONICAL = f"base_model.model.{Q}.lora_A.weight"


def peft_name(name: str) -> str | None:
    tensor = NAMES.resolve(name)
    return tensor and NAMES.peft_name(tensor)


@pytest.mark.parametrize(
    "name",
    [
        CANONICAL,
        f"{Q}.lora_A.weight",
        f"base_model.model.{Q}.lora_A.default.weight",
        f"{Q}.lora_A.my-adapter.weight",
        f"_orig_mod.{CANONICAL}",
        f"base_model.model.{Q}.lora_A.default._fsdp_wrapped_module.weight",
        f"base_model.model._orig_mod.{Q}.lora_A.weight",
        f"language_model.{Q}.lora_A.weight",
        "layers.0.self_attn.q_proj.lora_A.weight",
        f"{Q}.lora_a",
    ],
)
def test_the_names_of_tools_are_those_of_peft(name: str) -> None:
    """A12: names without prefix, `.default.`, `_orig_mod.`, `language_model.`"""
    assert peft_name(name) == CANONICAL


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.lora_embedding_B", "base_model.model.model.embed_tokens.lora_embedding_B"),
        ("embed_tokens.lora_embedding_A.default", "base_model.model.model.embed_tokens.lora_embedding_A"),
        ("lm_head.lora_B.weight", "base_model.model.lm_head.lora_B.weight"),
        ("base_model.model.model.unembed_tokens.lora_A.weight", "base_model.model.lm_head.lora_A.weight"),
    ],
)
def test_embedding_and_head_have_peft_s_names_for_them(name: str, expected: str) -> None:
    """A12: Tinker calls the head `unembed_tokens`."""
    assert peft_name(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        f"{Q}.lora_A",
        f"{Q}.lora_A.bias",
        f"{Q}.lora_A.default.other.weight",
        f"{Q}.lora_A.weight.absmax",
        f"{Q}.lora_magnitude_vector",
        f"{Q}.lora_embedding_A",
        "model.embed_tokens.lora_A.weight",
        "model.layers.3.self_attn.q_proj.lora_A.weight",
        "vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
        "lora_A.weight",
        "",
        "....lora_A.weight",
        f"{Q}.weight",
    ],
)
def test_other_names_stay_for_the_validation_to_refuse(name: str) -> None:
    assert NAMES.resolve(name) is None


def test_torchtune_s_own_names_are_refused_with_the_way_out() -> None:
    """A12: torchtune's own checkpoints, whose rows of q and k have another order."""
    with pytest.raises(InvalidAdapter, match=r"torchtune's own checkpoints.*Hugging Face checkpointer"):
        NAMES.resolve("layers.0.attn.q_proj.lora_a.weight")


def test_two_names_of_one_matrix_are_refused_with_both() -> None:
    """A12: nothing is dropped silently."""
    with pytest.raises(InvalidAdapter) as caught:
        renamed([f"{Q}.lora_A.default.weight", f"{Q}.lora_A.other.weight"], NAMES)
    assert caught.value.where == f"{Q}.lora_A.other.weight"
    assert f"{Q}.lora_A.default.weight" in caught.value.problem


def test_the_path_in_the_model_that_was_trained_is_known() -> None:
    for name, trained in {
        f"language_model.{Q}.lora_A.weight": f"language_model.{Q}",
        f"module._orig_mod.base_model.model.{Q}.lora_A.weight": Q,
        "base_model.model.layers.0.self_attn.q_proj.lora_A.weight": "layers.0.self_attn.q_proj",
        f"{Q}.lora_A.weight": Q,
    }.items():
        tensor = NAMES.resolve(name)
        assert tensor
        assert (tensor.path, tensor.trained_as) == (Q, trained)


parts = st.sampled_from(
    [*CANONICAL.split("."), "lora_B", "lora_embedding_A", "lora_a", "default", "_orig_mod", "1", ""]
)


@given(name=st.lists(parts | st.text(max_size=6), max_size=12).map(".".join))
def test_any_name_is_resolved_left_or_refused(name: str) -> None:
    try:
        found = peft_name(name)
    except InvalidAdapter as error:
        assert error.message.isprintable()
        return
    assert found is None or found.removeprefix("base_model.model.").rpartition(".lora_")[0] in BASE.modules


def test_canonical_names_stay() -> None:
    for name in lora_tensors():
        assert peft_name(name) == name
