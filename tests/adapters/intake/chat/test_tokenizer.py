"""A10: an adapter whose tokenizer has other tokens than the base's is refused, by their names."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.chat.companions import Companions
from loramux_adapters.intake.chat.tokenizer import check_added_tokens, check_tokenizer
from tests.helpers.chat_templates import write_tokenizer

VOCABULARY = {"<s>": 0, "</s>": 1, "a": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_tokenizer(folder, None)
    return folder / "tokenizer.json"


def write(folder: Path, name: str, value: object) -> Path:
    (folder / name).write_text(json.dumps(value))
    return folder


def changed(base: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the base's tokenizer.json with a change to `folder`."""
    tokenizer = json.loads(base.read_text())
    change(tokenizer)
    return write(folder, "tokenizer.json", tokenizer)


def new_token(content: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True} | flags


def test_tokens_that_the_base_has_under_the_same_numbers_are_fine(tmp_path: Path) -> None:
    write(tmp_path, "added_tokens.json", {"<s>": 0})
    write(
        tmp_path,
        "tokenizer_config.json",
        {"added_tokens_decoder": {"1": {"content": "</s>"}, "x": 3, "9" * 5000: {"content": "a"}}},
    )
    assert check_added_tokens(Companions(tmp_path), VOCABULARY) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("added_tokens.json", {"<tool>": 3, "<s>": 0}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": {"content": "<tool>"}, "0": {"content": "<s>"}}}),
    ],
)
def test_added_tokens_are_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    """A10."""
    with pytest.raises(InvalidAdapter, match="'<tool>'") as refused:
        check_added_tokens(Companions(write(tmp_path, name, value)), VOCABULARY)
    assert refused.value.where == name


def test_many_added_tokens_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "added_tokens.json", {f"<{number}>": number for number in range(100, 300)})
    with pytest.raises(InvalidAdapter, match="'<104>' and 195 more"):
        check_added_tokens(Companions(tmp_path), VOCABULARY)


def test_a_token_with_another_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match="another vocabulary"):
        check_added_tokens(Companions(write(tmp_path, "added_tokens.json", {"a": 7})), VOCABULARY)


def test_an_added_padding_token_is_a_note(tmp_path: Path) -> None:
    """A10: tools for training add one, and no prompt ever contains it."""
    write(tmp_path, "tokenizer_config.json", {"pad_token": "[PAD]"})
    [note] = check_added_tokens(Companions(write(tmp_path, "added_tokens.json", {"[PAD]": 3})), VOCABULARY)
    assert "padding token '[PAD]'" in note


@pytest.mark.parametrize("value", [{"eos_token": "x"}, {"eos_token": {"content": "x"}}])
def test_special_tokens_are_read_in_both_forms(tmp_path: Path, value: object) -> None:
    write(tmp_path, "tokenizer_config.json", {"bos_token": None, "pad_token": 3} | dict(value))  # type: ignore[call-overload]
    assert Companions(tmp_path).special_tokens == {"eos_token": "x"}


def test_no_tokenizer_of_the_adapter_or_of_the_base_is_no_difference(tmp_path: Path, base: Path) -> None:
    assert check_tokenizer(Companions(tmp_path), base) == []
    assert check_tokenizer(Companions(changed(base, tmp_path, lambda _: None)), tmp_path / "missing.json") == []


def test_a_tokenizer_that_differs_in_its_settings_only_is_fine(tmp_path: Path, base: Path) -> None:
    """A10: a trainer leaves its truncation and padding in the file."""
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    assert (
        check_tokenizer(Companions(changed(base, tmp_path, lambda own: own.update(truncation=truncation))), base) == []
    )


def test_new_tokens_of_a_tokenizer_are_refused_by_name(tmp_path: Path, base: Path) -> None:
    """A10."""
    token = new_token("<tool>", len(json.loads(base.read_text())["model"]["vocab"]))
    with pytest.raises(InvalidAdapter, match="'<tool>'"):
        check_tokenizer(Companions(changed(base, tmp_path, lambda own: own["added_tokens"].append(token))), base)


def test_a_tokenizer_with_other_numbers_is_refused(tmp_path: Path, base: Path) -> None:
    def swap(own: dict[str, Any]) -> None:
        vocabulary = own["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    with pytest.raises(InvalidAdapter, match="another vocabulary"):
        check_tokenizer(Companions(changed(base, tmp_path, swap)), base)


def test_a_tokenizer_that_splits_texts_otherwise_is_a_note(tmp_path: Path, base: Path) -> None:
    [note] = check_tokenizer(Companions(changed(base, tmp_path, lambda own: own["model"].update(merges=[]))), base)
    assert "splits texts" in note


@pytest.mark.slow
def test_a_tokenizer_that_makes_texts_grow_is_refused(tmp_path: Path, base: Path) -> None:
    """A10: 1 KB of it would take all memory."""
    growing = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
    changed(base, tmp_path, lambda own: own.update(normalizer={"type": "Sequence", "normalizers": [growing] * 6}))
    with pytest.raises(InvalidAdapter, match=r"tokenizer\.json"):
        check_tokenizer(Companions(tmp_path), base)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', "\x00" * 100])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, base: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InvalidAdapter, match=r"tokenizer\.json"):
        check_tokenizer(Companions(tmp_path), base)


JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(max_size=8),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = strategies.sampled_from(["added_tokens_decoder", "chat_template", "eos_token", "pad_token", "content", "1", "x"])


@pytest.mark.slow
@settings(max_examples=50)
@given(config=strategies.dictionaries(KEYS, JSON | strategies.dictionaries(KEYS, JSON)), added=JSON)
def test_any_json_is_read_or_refused(config: dict[str, Any], added: object) -> None:
    with TemporaryDirectory() as name, suppress(InvalidAdapter):
        folder = write(write(Path(name), "tokenizer_config.json", config), "added_tokens.json", added)
        check_added_tokens(Companions(folder), VOCABULARY)
        Companions(folder).template()
