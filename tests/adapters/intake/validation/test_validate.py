"""Valid adapters, and every invalid one that vLLM itself accepts or fails at with internals in its response."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.intake.normalization import normalize
from loramux_adapters.intake.validation import max_file_sizes, validate
from loramux_adapters.models import Manifest
from tests.helpers.adapter_files import (
    BASE,
    PEFT_CONFIGS,
    SIZES,
    Tensors,
    as_bfloat16,
    lora_config,
    lora_tensors,
    tensor_name,
    write_adapter,
    write_raw,
)
from tests.helpers.llama_bases import llama_base

ALL = tuple(path.rpartition(".")[2] for path in SIZES.linear_modules)
FIRST_A, FIRST_B = tensor_name(0, "q_proj", "A"), tensor_name(0, "q_proj", "B")


def accept(folder: Path, base: BaseDescription = BASE) -> Manifest:
    return validate(folder, base, max_rank=8)


def refusal(folder: Path, base: BaseDescription = BASE) -> InvalidAdapter:
    with pytest.raises(InvalidAdapter) as caught:
        accept(folder, base)
    return caught.value


def test_the_manifest_describes_an_accepted_adapter(tmp_path: Path) -> None:
    manifest = accept(write_adapter(tmp_path))
    assert manifest.model_dump(exclude={"digest", "base", "files"}) == {
        "rank": 4,
        "alpha": 8.0,
        "use_rslora": False,
        "scaling": 2.0,
        "target_modules": ("q_proj", "v_proj"),
        "layers": (0, 1, 2),
        "dtypes": ("F32",),
        "parameters": 3 * (4 * 16 + 16 * 4 + 4 * 16 + 8 * 4),
        "weights_bytes": 4 * 3 * (4 * 16 + 16 * 4 + 4 * 16 + 8 * 4),
        "warnings": (),
    }
    assert manifest.base == BASE.spec
    assert manifest.files[WEIGHTS_FILE].bytes == (tmp_path / WEIGHTS_FILE).stat().st_size


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (lora_config(target_modules=list(ALL)), lora_tensors(ALL)),
        (lora_config(target_modules="all-linear"), lora_tensors(ALL)),
        (lora_config(target_modules=["self_attn.q_proj", "v_proj"]), lora_tensors()),
        (lora_config(target_modules=["model.layers.1.mlp.up_proj"]), lora_tensors(("up_proj",), (1,))),
        (lora_config(exclude_modules=["v_proj", "layers.0.self_attn.q_proj"]), lora_tensors(("q_proj",), (1, 2))),
        (lora_config(layers_to_transform=[1, 2], layers_pattern="layers"), lora_tensors(layers=(1, 2))),
        (lora_config(layers_to_transform=2), lora_tensors(layers=(2,))),
        (lora_config(layers_to_transform=[]), lora_tensors()),
        (lora_config(use_rslora=True), lora_tensors()),
        (lora_config(lora_alpha=0.5), lora_tensors()),
        (lora_config(), lora_tensors(dtype=np.float16)),
        (lora_config(init_lora_weights="Gaussian"), lora_tensors()),
        (lora_config(init_lora_weights=False), lora_tensors()),
        (lora_config(init_lora_weights="eva", eva_config={"rho": 2.0}), lora_tensors()),
        (lora_config(target_modules=r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)"), lora_tensors()),
        (lora_config(target_modules=r".*\.[02]\..*q_proj"), lora_tensors(("q_proj",), (0, 2))),
        (lora_config(target_modules=list(ALL), exclude_modules=r".*mlp.*"), lora_tensors(ALL[:4])),
        (lora_config(base_model_name_or_path=None), lora_tensors()),
        ({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}, lora_tensors()),
    ],
)
def test_a_plain_lora_written_by_peft_is_accepted(tmp_path: Path, config: dict[str, Any], tensors: Tensors) -> None:
    manifest = accept(write_adapter(tmp_path, config, tensors))
    assert manifest.parameters == sum(tensor.size for tensor in tensors.values())


def test_bfloat16_is_accepted(tmp_path: Path) -> None:
    header, data = as_bfloat16(lora_tensors())
    assert accept(write_raw(tmp_path, json.dumps(header).encode(), data)).dtypes == ("BF16",)


def test_rank_stabilised_scaling_is_alpha_over_the_root_of_the_rank(tmp_path: Path) -> None:
    assert accept(write_adapter(tmp_path, lora_config(use_rslora=True))).scaling == 4.0


def test_an_adapter_of_the_largest_values_that_float16_can_hold_with_room_to_spare_is_accepted(tmp_path: Path) -> None:
    accept(write_adapter(tmp_path, tensors=only_largest(10_000, 0.001)))


def test_modules_without_effect_are_accepted_next_to_others(tmp_path: Path) -> None:
    accept(write_adapter(tmp_path, tensors=zeroed("AB", ("q_proj",))))


def test_ranks_and_alphas_of_single_modules_are_accepted_as_peft_reads_them(tmp_path: Path) -> None:
    config = lora_config(
        rank_pattern={"model.layers.1.self_attn.q_proj": 8, "q_proj": 2}, alpha_pattern={"1.self_attn.v_proj": 400}
    )
    tensors = lora_tensors(("q_proj",), (0, 2), rank=2) | lora_tensors(("q_proj",), (1,), rank=8)
    manifest = accept(write_adapter(tmp_path, config, tensors | lora_tensors(("v_proj",))))
    assert (manifest.rank, manifest.alpha, manifest.scaling) == (8, 8.0, 2.0)


def test_the_first_pattern_that_names_a_module_counts(tmp_path: Path) -> None:
    config = lora_config(target_modules=["q_proj"], rank_pattern={"q_proj": 2, "layers.1.self_attn.q_proj": 8})
    accept(write_adapter(tmp_path, config, lora_tensors(("q_proj",), rank=2)))


@pytest.mark.parametrize("scaling", [{"alpha_pattern": {"q_proj": 60_000}}, {"lora_alpha": 60_000}])
def test_an_alpha_that_drowns_the_base_is_refused(tmp_path: Path, scaling: dict[str, Any]) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(**scaling)))
    assert (error.where, "scaling" in error.problem) == (FIRST_A.removesuffix(".lora_A.weight"), True)


@pytest.mark.slow
def test_an_expression_that_never_ends_is_refused_by_that_reason(tmp_path: Path) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(target_modules=r"(.*.*.*.*)*(.+)+(a|aa)+$x")))
    assert "target_modules: its regular expressions take too much time" in error.problem


def test_an_expression_that_is_left_in_a_pattern_never_reaches_the_engine(tmp_path: Path) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(rank_pattern={"(q|v)_proj": 4})))
    assert "rank_pattern: an expression" in error.problem


def test_with_an_expression_a_tensor_without_its_other_half_is_refused(tmp_path: Path) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(target_modules=".*(q|v)_proj"), without(FIRST_B)))
    assert (error.where, error.problem) == (FIRST_B, "the tensor is missing")


@pytest.mark.parametrize("version", PEFT_CONFIGS)
def test_the_config_of_a_recent_peft_is_accepted(tmp_path: Path, version: str) -> None:
    accept(write_adapter(tmp_path, PEFT_CONFIGS[version]))


@pytest.mark.parametrize("name", ["tiny", "ORG/Tiny", "/models/org/tiny/", "C:\\models\\TINY", "", None])
def test_an_adapter_of_the_base_by_any_path_comes_without_a_warning(tmp_path: Path, name: str | None) -> None:
    folder = write_adapter(tmp_path, lora_config(base_model_name_or_path=name))
    assert validate(folder, BASE, max_rank=8, refuse_other_base=True).warnings == ()


@pytest.mark.parametrize("name", ["org/other", "tiny/other", "tiny2", "x" * 100_000, "ti\nny"])
def test_an_adapter_of_another_base_is_accepted_with_a_warning_or_refused(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path, lora_config(base_model_name_or_path=name))
    (warning,) = accept(folder).warnings
    with pytest.raises(InvalidAdapter) as caught:
        validate(folder, BASE, max_rank=8, refuse_other_base=True)
    assert warning == caught.value.message
    assert "expected tiny, found " in warning
    assert "LORAMUX_BASE_MISMATCH" in warning
    assert warning.isprintable()
    assert len(warning) < 600


@pytest.mark.parametrize(
    ("key", "value", "expected_text"),
    [
        ("use_dora", True, "DoRA"),
        ("bias", "all", "bias"),
        ("bias", "lora_only", "bias"),
        ("lora_bias", True, "bias in LoRA"),
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("trainable_token_indices", [1], "trainable_token_indices"),
        ("fan_in_fan_out", True, "fan_in_fan_out"),
        ("megatron_config", {"a": 1}, "megatron_config"),
        ("init_lora_weights", "loftq", "init_lora_weights"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights"),
        ("layer_replication", [[0, 2]], "layer replication"),
        ("alora_invocation_tokens", [1], "activated LoRA"),
        ("use_qalora", True, "QALoRA"),
        ("use_bdlora", {"a": 1}, "block-diagonal"),
        ("kasa_config", {"beta": 1.0}, "KaSA"),
        ("monteclora_config", {"num_samples": 4}, "MonteCLoRA"),
        ("init_lora_weights", "corda", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "olora", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "something_new", "init_lora_weights"),
        ("arrow_config", {"top_k": 1}, "arrow_config"),
    ],
)
def test_a_feature_that_would_be_ignored_silently_is_refused_by_name(
    tmp_path: Path, key: str, value: object, expected_text: str
) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(**{key: value})))
    assert error.where == CONFIG_FILE
    assert expected_text in error.problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "PREFIX_TUNING"),
        ("peft_type", None),
        ("r", 0),
        ("r", -4),
        ("r", 4.5),
        ("r", "4"),
        ("r", True),
        ("lora_alpha", 0),
        ("lora_alpha", -8),
        ("lora_alpha", 1e9),
        ("lora_alpha", 10**400),
        ("lora_alpha", None),
        ("use_rslora", "yes"),
        ("target_modules", None),
        ("target_modules", []),
        ("target_modules", ["q_proj", 1]),
        ("target_modules", ["query_key_value"]),
        ("target_modules", ["q_proj", "v_proj", ""]),
        ("target_modules", "q_proj"),
        ("target_modules", ".*(q|v)_pro"),
        ("target_modules", "*_proj"),
        ("target_modules", ""),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {"q_proj": 2.5}),
        ("rank_pattern", {"q_proj": True}),
        ("rank_pattern", {"q_(proj|gate)": 2}),
        ("rank_pattern", {"^model.layers.0.self_attn.q_proj": 2}),
        ("rank_pattern", {"": 2}),
        ("rank_pattern", {str(number): 2 for number in range(257)}),
        ("alpha_pattern", {"q_proj": -1}),
        ("alpha_pattern", {"q_proj": 1e9}),
        ("base_model_name_or_path", ["tiny"]),
        ("layers_to_transform", [-1]),
        ("layers_to_transform", "all"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(**{key: value})))
    assert error.where == CONFIG_FILE
    assert key in error.problem


@pytest.mark.parametrize("changes", [{"r": 9}, {"r": 10**400}, {"rank_pattern": {"q_proj": 9}}])
def test_a_rank_over_the_limit_is_refused_with_the_setting_that_could_change_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(**changes)))
    assert "LORAMUX_ENGINE__MAX_LORA_RANK" in error.message
    assert error.expected == "at most 8"


def test_an_adapter_without_a_tensor_is_refused(tmp_path: Path) -> None:
    config = lora_config(exclude_modules=["q_proj", "v_proj"])
    assert "no module" in refusal(write_adapter(tmp_path, config, {})).problem


def test_a_nan_in_the_config_is_refused_even_where_it_has_no_effect(tmp_path: Path) -> None:
    error = refusal(write_adapter(tmp_path, lora_config(lora_dropout=float("nan"))))
    assert "NaN is not JSON" in error.problem


@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_a_config_without_what_defines_a_lora_is_refused(tmp_path: Path, key: str) -> None:
    config = lora_config()
    del config[key]
    assert key in refusal(write_adapter(tmp_path, config)).problem


def without(name: str) -> Tensors:
    return {key: tensor for key, tensor in lora_tensors().items() if key != name}


def with_value(name: str, value: float, dtype: str = "float32") -> Tensors:
    tensors = lora_tensors(dtype=np.dtype(dtype))
    tensors[name][-1, -1] = value
    return tensors


def zeroed(parts: str, names: tuple[str, ...] = ("q_proj", "v_proj")) -> Tensors:
    """All tensors of `parts`, A or B, of the modules `names` are zeros."""
    return {
        name: tensor * 0 if name.split("lora_")[1][0] in parts and any(part in name for part in names) else tensor
        for name, tensor in lora_tensors().items()
    }


def alternating() -> Tensors:
    """A is zeros in one module and B in the other."""
    return zeroed("A", ("q_proj",)) | {name: tensor for name, tensor in zeroed("B").items() if "v_proj" in name}


def only_largest(a: float, b: float) -> Tensors:
    """All of A are `a`, and all of B are `b`."""
    return {name: np.full_like(tensor, a if "lora_A" in name else b) for name, tensor in lora_tensors().items()}


def vocabulary_tensors(rank: int = 4) -> Tensors:
    """Return the tensors of adapters on the head and on the embedding of BASE."""
    rng = np.random.default_rng(0)
    shapes = {
        "lm_head.lora_A.weight": (rank, 16),
        "lm_head.lora_B.weight": (64, rank),
        "model.embed_tokens.lora_embedding_A": (rank, 64),
        "model.embed_tokens.lora_embedding_B": (16, rank),
    }
    return {
        f"base_model.model.{name}": (rng.standard_normal(shape) / 10).astype(np.float32)
        for name, shape in shapes.items()
    }


SMALLER = replace(SIZES, hidden_size=8, intermediate_size=12, num_attention_heads=2)
LARGER = replace(SIZES, hidden_size=32, num_attention_heads=8)
DEEPER = replace(SIZES, num_hidden_layers=4)


@pytest.mark.parametrize(
    ("tensors", "where", "expected_text"),
    [
        (lora_tensors(rank=8), FIRST_A, "shape"),
        (lora_tensors(sizes=SMALLER), FIRST_A, "shape"),
        (lora_tensors(sizes=LARGER), FIRST_A, "shape"),
        (lora_tensors(layers=(0, 1, 2, 3), sizes=DEEPER), tensor_name(3, "q_proj", "A"), "unexpected tensor"),
        (lora_tensors(layers=(0,)), tensor_name(1, "q_proj", "A"), "missing"),
        (without(FIRST_A), FIRST_A, "missing"),
        (without(FIRST_B), FIRST_B, "missing"),
        (lora_tensors(("q_proj", "v_proj", "k_proj")), tensor_name(0, "k_proj", "A"), "unexpected tensor"),
        (lora_tensors(("q_proj",)), tensor_name(0, "v_proj", "A"), "missing"),
        ({}, FIRST_A, "missing"),
        (lora_tensors() | {"lm_head.weight": np.ones((64, 16), np.float32)}, "lm_head.weight", "fully trained copy"),
        (lora_tensors() | {"lm_head.weight": np.ones((65, 16), np.float32)}, "lm_head.weight", "resized from 64 to 65"),
        (lora_tensors() | {"other.weight": np.ones((2, 2), np.float32)}, "other.weight", "unexpected tensor"),
        (lora_tensors() | {f"{FIRST_A}\n": np.ones((2, 2), np.float32)}, f"{FIRST_A}\n", "unexpected tensor"),
        (lora_tensors(dtype=np.int8), FIRST_A, "quantised"),
        (lora_tensors(dtype=np.float64), FIRST_A, "dtype"),
        (lora_tensors() | {FIRST_A: np.ones(4, np.float32)}, FIRST_A, "matrix"),
        (with_value(FIRST_B, float("nan")), FIRST_B, "NaN"),
        (with_value(FIRST_B, float("-inf")), FIRST_B, "infinite"),
        (with_value(FIRST_A, float("nan"), "float16"), FIRST_A, "NaN"),
        (with_value(FIRST_A, float("inf"), "float16"), FIRST_A, "infinite"),
        (with_value(FIRST_B, -1e30), FIRST_A.removesuffix(".lora_A.weight"), "too large"),
        (with_value(FIRST_A, 65504, "float16"), FIRST_A.removesuffix(".lora_A.weight"), "too large"),
        (only_largest(20_000, 1e-4), FIRST_A.removesuffix(".lora_A.weight"), "too large: max|A|"),
        (only_largest(1e-4, 6_000), FIRST_A.removesuffix(".lora_A.weight"), "too large: scaling x max|B|"),
        (zeroed("A"), WEIGHTS_FILE, "no effect"),
        (zeroed("B"), WEIGHTS_FILE, "no effect"),
        (zeroed("AB"), WEIGHTS_FILE, "no effect"),
        ({name: -tensor for name, tensor in zeroed("B").items()}, WEIGHTS_FILE, "no effect"),
        (alternating(), WEIGHTS_FILE, "no effect"),
    ],
)
def test_wrong_tensors_are_refused_by_the_first_ones_name(
    tmp_path: Path, tensors: Tensors, where: str, expected_text: str
) -> None:
    error = refusal(write_adapter(tmp_path, tensors=tensors))
    assert error.where == where
    assert expected_text in error.problem


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bfloat16_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    header, data = as_bfloat16(with_value(FIRST_B, value))
    error = refusal(write_raw(tmp_path, json.dumps(header).encode(), data))
    assert (error.where, error.problem) == (FIRST_B, "a value is NaN or infinite")


def test_a_bfloat16_that_is_too_large_is_refused(tmp_path: Path) -> None:
    header, data = as_bfloat16(with_value(FIRST_B, 1e6))
    assert "too large" in refusal(write_raw(tmp_path, json.dumps(header).encode(), data)).problem


def test_a_nan_after_the_first_mebibyte_is_found(tmp_path: Path) -> None:
    wide = replace(SIZES, hidden_size=1 << 17, num_hidden_layers=1)
    tensors = lora_tensors(layers=(0,), sizes=wide)
    tensors[FIRST_A][-1, -1] = np.nan
    assert refusal(write_adapter(tmp_path, tensors=tensors), llama_base(wide)).where == FIRST_A


def test_the_expected_shape_is_reported_with_the_found_one(tmp_path: Path) -> None:
    error = refusal(write_adapter(tmp_path, tensors=lora_tensors(rank=8)))
    assert "expected (4, 16), found (8, 16)" in error.message


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (write_adapter(tmp_path) / missing).unlink()
    assert refusal(tmp_path).where == missing


@pytest.mark.parametrize("linked", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path, linked: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / linked).rename(tmp_path / "elsewhere")
    (tmp_path / linked).symlink_to("elsewhere")
    assert "symbolic link" in refusal(tmp_path).problem


def test_the_largest_adapter_that_is_accepted_fits_the_size_limit(tmp_path: Path) -> None:
    config = lora_config(r=8, target_modules=[*ALL, "lm_head", "embed_tokens"])
    manifest = accept(write_adapter(tmp_path, config, lora_tensors(ALL, rank=8) | vocabulary_tensors(rank=8)))
    limits = max_file_sizes(BASE, max_rank=8)
    saved_vocabulary = 2 * (64 + 64 // 8 + 64) * 16 * 4
    assert limits[WEIGHTS_FILE] - (1 << 20) - 8 - saved_vocabulary == manifest.weights_bytes
    assert manifest.files[WEIGHTS_FILE].bytes <= limits[WEIGHTS_FILE]


@pytest.mark.slow
def test_a_base_with_many_experts_has_a_longer_header(tmp_path: Path) -> None:
    experts = {
        f"model.layers.{layer}.mlp.experts.{expert}.down_proj": TargetModule(inputs=1, outputs=1, is_expert=True)
        for layer in range(48)
        for expert in range(128)
    }
    base = BaseDescription.of(experts, spec=BASE.spec, parameters=1)
    names = [f"base_model.model.{path}.lora_{part}.weight" for path in experts for part in "AB"]
    folder = write_adapter(
        tmp_path,
        lora_config(r=1, target_modules=["down_proj"]),
        {name: np.full((1, 1), 0.1, np.float32) for name in names},
    )
    with (folder / WEIGHTS_FILE).open("rb") as file:
        assert int.from_bytes(file.read(8), "little") > 1 << 20
    assert normalize(folder, base, None) == []
    assert validate(folder, base, 8).parameters == len(names)
