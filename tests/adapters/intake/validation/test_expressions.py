"""Expressions of configs match what PEFT's do, and hostile ones cost a second at most."""

import time
from collections.abc import Sequence

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation import expressions
from loramux_adapters.intake.validation.expressions import end_of_name, layer_number, matching_names, whole_name

NAMES = ["lm_head", "model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "model.layers.1.mlp.up_proj"]


def ends_with(text: str, names: Sequence[str] = NAMES) -> list[str]:
    (found,) = matching_names([end_of_name("rank_pattern", text)], names)
    return list(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("q_proj", NAMES[1:3]),
        ("proj", []),
        ("1.self_attn.q_proj", NAMES[1:2]),
        ("model.layers.1.self_attn.q_proj", NAMES[1:2]),
        ("^model.layers.1.self_attn.q_proj", NAMES[1:2]),
        (r".*\.layers\.1\..*(q_proj|up_proj)", [NAMES[1], NAMES[3]]),
        ("(q|up)_proj", NAMES[1:]),
        ("(q|up)_pro", []),
        ("^model.layers.1.*attn", []),
        ("self.attn.q.proj", NAMES[1:3]),
        ("self-attn.q_proj", []),
        ("", []),
    ],
)
def test_a_pattern_matches_names_and_their_ends_after_a_dot(text: str, expected: list[str]) -> None:
    """A3: expressions, among them those that begin with ^; a dot matches other characters, too."""
    assert ends_with(text) == expected


def test_an_expression_for_targets_matches_whole_names_only() -> None:
    """A11: PEFT reads `"q_proj"` as an expression."""
    asked = [whole_name("target_modules", text) for text in ("q_proj", r".*\.q_proj", "lm_head")]
    assert [list(found) for found in matching_names(asked, NAMES)] == [[], NAMES[1:3], ["lm_head"]]


def test_the_group_of_a_layers_number_is_returned() -> None:
    (found,) = matching_names([layer_number("layers_pattern", "layers")], NAMES)
    assert found == {NAMES[1]: "1", NAMES[2]: "11", NAMES[3]: "1"}


@pytest.mark.parametrize("text", ["(", "*", "[a-", "(?<=a*)b", "(?P<a>.)(?P<a>.)", r"\p{L}", "q_proj(?i)", "(" * 5000])
def test_what_peft_can_not_evaluate_is_refused_with_its_key(text: str) -> None:
    with pytest.raises(InvalidAdapter, match="rank_pattern: not a regular expression"):
        ends_with(text)


def test_plain_names_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "_evaluate_in_process", None)
    assert ends_with("self_attn.q_proj") == NAMES[1:3]
    assert ends_with("no.such_module") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        r"(.*.*.*.*)*(.+)+(a|aa)+$x",
        r"(?:(?:a?){65535}){65535}x",
        r"(.*)(.*)(.*)(.*)(.*)(.*)\1\2\3\4\5\6x",
        "(?i)" + "[\x00-\U0010ffff]" * 3000,
        r"((a{0,5000}){0,5000}){0,5000}(.|.)*(.|.)*!",
    ],
)
def test_a_hostile_expression_takes_little_time_and_memory_whatever_it_is(text: str) -> None:
    started = time.monotonic()
    try:
        assert ends_with(text, [*NAMES, "a" * 200]) == []
    except InvalidAdapter as error:
        assert "take too much time or memory" in error.problem or "not a regular" in error.problem
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_many_names_that_need_evaluation_stay_within_the_limit() -> None:
    asked = [end_of_name("rank_pattern", f"no.module.{number}") for number in range(20_000)]
    started = time.monotonic()
    with pytest.raises(InvalidAdapter, match="take too much time"):
        matching_names(asked, [f"model.layers.{number}.self_attn.q_proj" for number in range(20_000)])
    assert time.monotonic() - started < 20
