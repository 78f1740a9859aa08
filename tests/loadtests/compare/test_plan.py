from pathlib import Path

import pytest

from loramux_loadtests.compare.arm_options import parse_arm, parse_arms, parse_keys
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.plan import (
    ArmConfig,
    ComparisonPlan,
    DefaultServer,
    build_comparison,
    read_plan,
)
from tests.helpers.comparisons import write_example

SERVER = DefaultServer("http://127.0.0.1:1", "secret")


def test_an_arm_is_a_name_a_model_and_a_file_even_where_the_model_has_colons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").touch()
    prompt = tmp_path / "short.txt"
    assert parse_arm("a b=tiny") == ("a b", ArmConfig(model="tiny"))
    assert parse_arm("a=tiny:short.txt") == ("a", ArmConfig(model="tiny", prompt=prompt))
    assert parse_arm("a=ft:tiny:me::1") == ("a", ArmConfig(model="ft:tiny:me::1"))
    assert parse_arm("a=ft:tiny:me::1:short.txt") == ("a", ArmConfig(model="ft:tiny:me::1", prompt=prompt))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("tiny", "expected NAME=MODEL"), ("=tiny", "expected NAME"), ("a=", "expected NAME"), ("a=b:c.txt", "c.txt")],
)
def test_an_invalid_arm_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ComparisonError, match=reason):
        parse_arm(text)


def plan(tmp_path: Path, text: str) -> ComparisonPlan:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return read_plan(path)


ARMS = "arms: {one: {model: a}, two: {model: b}, three: {model: c}}\nscorer: {type: exact}\nmax_tokens: 4\n"


def test_the_last_arm_is_compared_with_the_best_other_one_unless_the_plan_names_one(tmp_path: Path) -> None:
    folder = write_example(tmp_path)
    usual = build_comparison(plan(tmp_path, ARMS), folder, "x", SERVER, None)
    assert (usual.challenger, usual.reference, usual.margin) == ("three", None, 0.05)
    named = build_comparison(plan(tmp_path, ARMS + "challenger: two\nreference: one\n"), folder, "x", SERVER, 3)
    assert (named.challenger, named.reference, len(named.items)) == ("two", "one", 3)
    assert named.data == usual.data
    best = build_comparison(plan(tmp_path, ARMS + "reference: best\nmargin: 0.1\n"), folder, "x", SERVER, None)
    assert (best.reference, best.margin) == (None, 0.1)
    an_arm = ARMS.replace("one:", "best:") + "reference: best\n"
    assert build_comparison(plan(tmp_path, an_arm), folder, "x", SERVER, None).reference == "best"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("scorer: {type: exact}", "max_tokens: Field required"),
        (ARMS + "margin: 0", "margin"),
        (ARMS + "margin: .nan", "margin"),
        (ARMS.replace("max_tokens: 4", "max_tokens: 0"), "max_tokens"),
        ("{", "plan.yaml can't be read"),
        ("- 1", "plan.yaml: "),
        (ARMS.replace("exact", "guess"), "scorer"),
        (ARMS + "surprise: 1", "surprise"),
        (ARMS + "prices: {gpu_hour: -1}", "prices.gpu_hour"),
        (ARMS + "prices: {gpu_hour: .inf}", "prices.gpu_hour"),
    ],
)
def test_a_wrong_plan_says_where(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ComparisonError, match=reason):
        plan(tmp_path, text)


def test_one_arm_or_the_same_one_twice_is_refused(tmp_path: Path) -> None:
    folder = write_example(tmp_path)
    with pytest.raises(ComparisonError, match="at least two arms"):
        build_comparison(
            ComparisonPlan.model_validate({"scorer": {"type": "exact"}, "max_tokens": 1, "arms": {}}),
            folder,
            "x",
            SERVER,
            None,
        )
    with pytest.raises(ComparisonError, match="unknown arm 'four'; expected one of 'one', 'two', 'three'"):
        build_comparison(plan(tmp_path, ARMS + "challenger: four"), folder, "x", SERVER, None)
    with pytest.raises(ComparisonError, match="with itself"):
        build_comparison(plan(tmp_path, ARMS + "challenger: one\nreference: one\n"), folder, "x", SERVER, None)


def test_a_missing_prompt_is_named(tmp_path: Path) -> None:
    folder = write_example(tmp_path)
    with pytest.raises(ComparisonError, match=r"gone.txt can't be read"):
        build_comparison(
            plan(tmp_path, ARMS.replace("{model: b}", "{model: b, prompt: gone.txt}")), folder, "x", SERVER, None
        )


def test_two_arms_of_one_name_are_refused() -> None:
    assert list(parse_arms(["a=tiny", "b=tiny"])) == ["a", "b"]
    with pytest.raises(ComparisonError, match="two arms have the name 'a'"):
        parse_arms(["a=tiny", "a=lights"])


def test_the_key_goes_to_the_server_it_is_for(tmp_path: Path) -> None:
    text = ARMS.replace("{model: b}", "{model: b, url: 'http://other'}").replace(
        "{model: c}", "{model: c, url: 'http://third'}"
    )
    with_keys = SERVER._replace(arm_keys=parse_keys(["three=theirs=="]))
    found = build_comparison(plan(tmp_path, text), write_example(tmp_path), "x", with_keys, None)
    assert [arm.api_key and arm.api_key.get_secret_value() for arm in found.arms] == ["secret", None, "theirs=="]
    assert "secret" not in repr(found)
    with pytest.raises(ComparisonError, match="unknown arm 'four'"):
        build_comparison(plan(tmp_path, text), tmp_path / "lights", "x", SERVER._replace(arm_keys={"four": "k"}), None)
    with pytest.raises(ComparisonError, match=r"expected ARM=KEY$"):
        parse_keys(["my-secret-key"])


def test_a_function_file_is_relative_to_the_plan_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(answer, expected):\n    return 1\n")
    found = plan(tmp_path, ARMS.replace("{type: exact}", "{type: function, function: 'mine.py:mine'}"))
    before = found.scorer.cache_key()
    assert found.scorer.score("a", "b") == {"score": 1}
    (tmp_path / "mine.py").write_text("def mine(answer, expected):\n    return 0\n")
    assert found.scorer.cache_key() != before
