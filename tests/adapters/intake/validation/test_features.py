"""Keys that do not change the weights' meaning are accepted with a warning; those that may are refused by name."""

from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation import validate
from loramux_adapters.intake.validation.features import REFUSED
from tests.helpers.adapter_files import BASE, lora_config, write_adapter


def warnings(folder: Path, **config: Any) -> tuple[str, ...]:
    return validate(write_adapter(folder, lora_config(**config)), BASE, max_rank=8).warnings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("corda_config", {"corda_method": "kpm"}),
        ("loftq_config", {"loftq_bits": 4, "loftq_iter": 1}),
        ("velora_config", {"num_groups": 4}),
        ("eva_config", {"rho": 2.0}),
        ("lora_ga_config", {"direction": "ArBr"}),
    ],
)
def test_a_config_that_a_conversion_left_behind_is_ignored_with_a_warning(
    tmp_path: Path, key: str, value: object
) -> None:
    """A8: PEFT itself ignores it, because init_lora_weights does not name it."""
    (warning,) = warnings(tmp_path, **{key: value})
    assert "only matter during training" in warning
    assert key in warning


def test_a_config_of_the_initialisation_that_was_used_comes_without_a_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, init_lora_weights="eva", eva_config={"rho": 2.0}) == ()


def test_a_note_of_another_tool_is_ignored_with_a_warning(tmp_path: Path) -> None:
    """A8: an unknown key with a text, from a PEFT whose keys are known."""
    (warning,) = warnings(tmp_path, note="trained on Tuesday", trained_by="x")
    assert "unknown keys" in warning
    assert "note" in warning
    assert "trained_by" in warning


@pytest.mark.parametrize("value", [True, 1, 0.5, [0], {"a": None}])
def test_an_unknown_key_that_may_enable_something_is_refused_by_name(tmp_path: Path, value: object) -> None:
    with pytest.raises(InvalidAdapter, match="may change the weights' meaning") as caught:
        warnings(tmp_path, use_something_of_next_year=value)
    assert "use_something_of_next_year" in caught.value.message


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_an_unknown_key_that_enables_nothing_comes_without_a_warning(tmp_path: Path, value: object) -> None:
    assert warnings(tmp_path, use_something_of_next_year=value, peft_version="99.0") == ()


@pytest.mark.parametrize("version", ["0.22.0", "1.0", "0.22.0.dev0@0123abc", "9" * 5000, "next", [0, 21], 7])
def test_an_unknown_key_from_a_newer_peft_is_refused_by_name(tmp_path: Path, version: object) -> None:
    with pytest.raises(InvalidAdapter, match="may change the weights' meaning") as caught:
        warnings(tmp_path, variant_of_next_year="x", peft_version=version)
    assert "variant_of_next_year" in caught.value.message


@pytest.mark.parametrize("version", ["0.21.9", "0.3", "0.21.2@0123abc", None, ""])
def test_an_unknown_key_from_a_known_peft_is_accepted(tmp_path: Path, version: object) -> None:
    assert len(warnings(tmp_path, note="x", peft_version=version)) == 1


def test_a_warning_never_carries_a_line_break_or_pages_of_text_from_a_file(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, **{f"\n{number}\x1b" * 1000: "x" for number in range(100)})
    assert warning.isprintable()
    assert len(warning) < 600


@pytest.mark.parametrize(("key", "value"), [("r", 4.0), ("use_rslora", None), ("layers_pattern", [])])
def test_a_value_that_other_tools_write_differently_is_read_as_it_is_meant(
    tmp_path: Path, key: str, value: object
) -> None:
    """A8: `r: 8.0` and `use_rslora: null`."""
    assert warnings(tmp_path, **{key: value}) == ()


def test_every_refusal_says_what_to_do_instead() -> None:
    assert all(": " in reason or ", or " in reason for reason in REFUSED.values())
