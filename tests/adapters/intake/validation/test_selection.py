"""The modules that a config adapts, and their ranks, are those of PEFT; see also test_peft_oracle."""

import time
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation import validate
from loramux_adapters.intake.validation.config import parse_config
from loramux_adapters.intake.validation.selection import Selection, select
from tests.helpers.adapter_files import BASE, SIZES, lora_config, lora_tensors, write_adapter
from tests.helpers.llama_bases import llama_base

DEEP = llama_base(type(SIZES)(num_hidden_layers=36))


def selected(base: BaseDescription = BASE, **config: Any) -> Selection:
    return select(parse_config(lora_config(**config)), base)


def paths(**config: Any) -> set[str]:
    return {path.removeprefix("model.layers.") for path in selected(**config).modules}


def test_names_of_other_models_modules_are_ignored_with_a_warning(tmp_path: Path) -> None:
    """A4: the tensors are exactly those of the modules that match."""
    config = lora_config(
        target_modules=["q_proj", "v_proj", "query_key_value"],
        rank_pattern={"c_attn": 2, "q_proj": 4},
        alpha_pattern={"c_attn": 2},
        layers_to_transform=[0, 1, 2, 77],
    )
    warnings = validate(write_adapter(tmp_path, config), BASE, max_rank=8).warnings
    assert len(warnings) == 4
    for key, name in {"target_modules": "query_key_value", "rank_pattern": "c_attn", "alpha_pattern": "c_attn",
                      "layers_to_transform": "77"}.items():  # fmt: skip
        assert any(f"{key}: entries that match no adapted module" in text and name in text for text in warnings)


def test_names_of_other_models_modules_alone_are_refused(tmp_path: Path) -> None:
    """A4: an adapter that changes nothing here was made for another base."""
    with pytest.raises(InvalidAdapter, match="target_modules: the adapter changes no module of the base"):
        validate(write_adapter(tmp_path, lora_config(target_modules=["query_key_value", "c_attn"])), BASE, max_rank=8)


def test_a_target_in_plain_text_is_an_expression_for_whole_names(tmp_path: Path) -> None:
    """A11: PEFT's expression `q_proj` matches no whole name."""
    with pytest.raises(InvalidAdapter, match="PEFT reads text as an expression for whole names") as caught:
        validate(write_adapter(tmp_path, lora_config(target_modules="q_proj"), lora_tensors(("q_proj",))), BASE, 8)
    assert "a list of the ends of names" in caught.value.message


def test_all_linear_leaves_out_the_head_and_the_embedding() -> None:
    assert selected(target_modules="All-Linear").modules.keys() == BASE.linear.keys()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"target_modules": [], "target_parameters": []}, set()),
        ({"target_modules": ["lm_head", "embed_tokens"]}, {"lm_head", "model.embed_tokens"}),
        ({"target_modules": ["1.self_attn.q_proj"]}, {"1.self_attn.q_proj"}),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1}, {"1.self_attn.q_proj"}),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
         {"0.self_attn.q_proj", "2.self_attn.q_proj"}),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h", "lay.*"]},
         {"0.self_attn.q_proj"}),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "h"}, set()),
        ({"target_modules": ["1.self_attn.q_proj"], "layers_pattern": "h"}, {"1.self_attn.q_proj"}),
        ({"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [0]}, {"0.self_attn.q_proj", "lm_head"}),
        ({"target_modules": ["q_proj", "model.layers.2.self_attn.q_proj"], "layers_to_transform": [0]},
         {"0.self_attn.q_proj", "2.self_attn.q_proj"}),
        ({"target_modules": r".*\.[01]\..*(q|o)_proj", "exclude_modules": ["1.self_attn.o_proj"]},
         {"0.self_attn.q_proj", "0.self_attn.o_proj", "1.self_attn.q_proj"}),
        ({"target_modules": ["up_proj", "q_proj"], "exclude_modules": r".*(mlp|\.[02]\.).*"}, {"1.self_attn.q_proj"}),
    ],
)  # fmt: skip
def test_the_modules_are_those_that_peft_adapts(config: dict[str, Any], expected: set[str]) -> None:
    assert paths(**config) == expected


def test_expressions_set_ranks_and_alphas_as_peft_reads_them() -> None:
    """A3: the first pattern that matches counts."""
    found = selected(
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={
            "^model.layers.0.self_attn.q_proj": 1,
            r".*\.layers\.1\..*(q_proj|v_proj)$": 2,
            "(q|v)_proj": 3,
        },
        alpha_pattern={"(up|down)_proj": 5},
    )
    ranks = {path.removeprefix("model.layers."): adapted.rank for path, adapted in found.modules.items()}
    assert ranks == {
        "0.self_attn.q_proj": 1, "0.self_attn.v_proj": 3, "0.mlp.up_proj": 4,
        "1.self_attn.q_proj": 2, "1.self_attn.v_proj": 2, "1.mlp.up_proj": 4,
        "2.self_attn.q_proj": 3, "2.self_attn.v_proj": 3, "2.mlp.up_proj": 4,
    }  # fmt: skip
    assert {adapted.alpha for path, adapted in found.modules.items() if "up_proj" in path} == {5.0}
    assert not found.warnings()


def test_a_pattern_may_name_every_module_of_the_base() -> None:
    """A7: EVA writes 252 entries for 36 layers of 7 modules."""
    pattern = {path: 1 + number % 8 for number, path in enumerate(DEEP.linear)}
    assert len(pattern) == 252
    found = selected(DEEP, target_modules="all-linear", rank_pattern=pattern, alpha_pattern=pattern)
    assert {path: adapted.rank for path, adapted in found.modules.items()} == pattern


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
def test_more_entries_than_the_base_has_modules_are_refused(key: str) -> None:
    names = [f"name_{number}" for number in range(257)]
    value: Any = dict.fromkeys(names, 4) if key.endswith("pattern") else names
    with pytest.raises(InvalidAdapter, match=f"{key}: more entries than the base has modules"):
        selected(**{key: value})


EXPERTS = BaseDescription.of(
    {
        **llama_base(SIZES).modules,
        **{
            f"model.layers.{layer}.mlp.experts{suffix}": TargetModule(
                inputs=16, outputs=outputs, experts=4, parameter=name
            )
            for layer in range(2)
            for suffix, name, outputs in ((".base_layer", "gate_up_proj", 48), ("", "down_proj", 24))
        },
    },
    spec=BASE.spec,
    parameters=1,
)


def test_the_parameters_of_experts_are_targets_and_patterns_by_their_own_names() -> None:
    found = selected(
        EXPERTS,
        target_modules=["q_proj", "experts"],
        target_parameters=["experts.gate_up_proj", "mlp.experts.down_proj", "experts.other"],
        rank_pattern={"experts.gate_up_proj": 2, "1.mlp.experts.down_proj": 3},
        exclude_modules=".*experts.*",
    )
    experts = {path: adapted.rank for path, adapted in found.modules.items() if "experts" in path}
    assert experts == {
        "model.layers.0.mlp.experts": 4,
        "model.layers.0.mlp.experts.base_layer": 2,
        "model.layers.1.mlp.experts": 3,
        "model.layers.1.mlp.experts.base_layer": 2,
    }
    assert [text for text in found.warnings() if "experts.other" in text]
    assert [text for text in found.warnings() if "target_modules" in text]


def test_lists_of_all_modules_of_a_base_with_many_experts_take_little_time() -> None:
    paths = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj" for layer in range(48) for expert in range(128)]
    modules = dict.fromkeys(paths, TargetModule(inputs=8, outputs=8, is_expert=True))
    base = BaseDescription.of(modules, spec=BASE.spec, parameters=1)
    others = [f"{path}_2" for path in paths]
    started = time.process_time()
    found = selected(base, target_modules=paths, exclude_modules=others, target_parameters=others)
    assert time.process_time() - started < 2  # 0.1 s on a quiet machine
    assert found.modules.keys() == modules.keys()


def test_an_expression_for_modules_chooses_no_parameters() -> None:
    assert set(selected(EXPERTS, target_modules=r".*mlp.*down_proj").modules) == {
        f"model.layers.{layer}.mlp.down_proj" for layer in range(3)
    }


def test_names_of_the_model_that_was_trained_are_those_that_expressions_match() -> None:
    names = {path: path.replace("model.", "language_model.model.", 1) for path in BASE.modules}
    config = lora_config(
        target_modules=r"language_model\.model\.layers\.0\..*q_proj",
        rank_pattern={"^language_model.*q_proj": 2},
    )
    found = select(parse_config(config), BASE, names)
    assert {path: adapted.rank for path, adapted in found.modules.items()} == {"model.layers.0.self_attn.q_proj": 2}
