"""The stored config means the same as the given one, to PEFT and to an engine that looks names up."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation.canonical import canonical_config
from loramux_adapters.intake.validation.config import parse_config, refuse_expressions
from loramux_adapters.intake.validation.selection import select
from tests.helpers.adapter_files import BASE, lora_config

FIRST = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rank_pattern": {"q_proj": 2, "1.self_attn.v_proj": 3}, "alpha_pattern": {"q_proj": 8}},
        {"rank_pattern": {f"model.layers.{layer}.self_attn.q_proj": 2 for layer in range(3)}},
        {"target_modules": r".*(q|v)_proj"},
        {"target_modules": ["q_proj", "c_attn"]},
        {"note": "x"},
        {"rank_pattern": None, "use_rslora": True},
    ],
)
def test_a_config_that_the_engine_reads_as_peft_does_is_stored_as_it_is(changes: dict[str, Any]) -> None:
    values = lora_config(**changes)
    assert canonical_config(values, BASE) == (values, [])
    assert canonical_config(values, BASE)[0] is values


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r": 4.0}, {"r": 4}),
        ({"use_rslora": None}, {"use_rslora": False}),
        ({"rank_pattern": {"q_proj": 2.0}}, {"rank_pattern": {"q_proj": 2}}),
    ],
)
def test_values_of_other_types_are_stored_as_the_engine_expects_them(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A8: vLLM compares ranks and types."""
    values, notes = canonical_config(lora_config(**changes), BASE)
    assert repr(values) == repr(lora_config(**(changes | expected)))
    assert notes == []


def test_expressions_become_the_full_names_of_the_modules_that_they_choose() -> None:
    """A3: the engine evaluates none."""
    values, (note,) = canonical_config(lora_config(rank_pattern={"^model.layers.0.*q_proj": 2, ".*": 4}), BASE)
    assert values == lora_config(rank_pattern={FIRST: 2})
    assert "rank_pattern: written with the full names" in note


def test_a_pattern_of_another_models_module_is_dropped_with_a_note() -> None:
    """A4: vLLM would count its rank."""
    values, notes = canonical_config(lora_config(rank_pattern={"c_attn": 512, "q_proj": 2}), BASE)
    assert values["rank_pattern"] == {f"model.layers.{layer}.self_attn.q_proj": 2 for layer in range(3)}
    assert len(notes) == 2
    assert "c_attn" in notes[0]


def test_targets_of_a_model_with_other_names_are_stored_by_the_names_of_the_base() -> None:
    names = {path: path.replace("model.", "language_model.model.", 1) for path in BASE.modules}
    given_config = lora_config(
        target_modules=r"language_model\.model\.layers\.[01]\..*q_proj",
        exclude_modules=["language_model.model.layers.1.self_attn.q_proj"],
        alpha_pattern={"language_model.model.layers.0.self_attn.q_proj": 3},
    )
    values, notes = canonical_config(given_config, BASE, names)
    assert values["target_modules"] == [FIRST]
    assert values["exclude_modules"] is None
    assert values["alpha_pattern"] == {FIRST: 3.0}
    assert notes


def test_a_hostile_pattern_is_refused() -> None:
    with pytest.raises(InvalidAdapter, match="rank_pattern"):
        canonical_config(lora_config(rank_pattern={"(": 2}), BASE)


names = st.sampled_from(
    ["q_proj", "v_proj", "up_proj", "c_attn", "0.self_attn.q_proj", "self_attn.v_proj", FIRST,
     "model.layers.1.mlp.up_proj", "self.attn.q_proj", "lm_head", "experts"]
)  # fmt: skip
patterns = st.dictionaries(names, st.integers(1, 8), max_size=5)


@settings(max_examples=50)
@given(targets=st.lists(names, min_size=1, max_size=4, unique=True), ranks=patterns, alphas=patterns)
def test_the_stored_config_chooses_the_same_modules_and_ranks(
    targets: list[str], ranks: dict[str, int], alphas: dict[str, int]
) -> None:
    given_config = lora_config(target_modules=targets, rank_pattern=ranks, alpha_pattern=alphas)
    stored, _ = canonical_config(given_config, BASE)
    refuse_expressions(parse_config(stored))
    assert select(parse_config(stored), BASE).modules == select(parse_config(given_config), BASE).modules
    assert canonical_config(stored, BASE)[0] is stored
