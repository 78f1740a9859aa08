"""A10: what transformers saves next to an adapter's weights, changed as tools for training change it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.chat.policy import ChatPolicy, ServedChat
from tests.helpers.chat_templates import CHATML, PARTS, write_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_tokenizer(folder, CHATML)
    return folder


def saved(base: Path, folder: Path, change: Callable[[Any], object]) -> list[str]:
    """Save the base's tokenizer with a change to `folder`; returns the notes of the intake."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    served = ServedChat(
        template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens_map,
        stop_tokens=frozenset({tokenizer.eos_token}),
        vocabulary=AutoTokenizer.from_pretrained(base).get_vocab,
        tokenizer=base / "tokenizer.json",
    )
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return ChatPolicy(served).apply(folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: None, id="unchanged"),
        pytest.param(lambda t: t(["a", "b c d"], padding=True, truncation=True, max_length=4), id="used in training"),
        pytest.param(lambda t: setattr(t, "padding_side", "left"), id="padded on the left"),
        pytest.param(lambda t: setattr(t, "model_max_length", 512), id="another maximum length"),
        pytest.param(lambda t: setattr(t, "pad_token", t.eos_token), id="padded with another token of the base"),
    ],
)
def test_the_bases_tokenizer_as_training_leaves_it_is_no_difference(
    base: Path, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    """A10."""
    assert saved(base, tmp_path, change) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", [PARTS, {"default": PARTS, "tool_use": CHATML}])
def test_a_saved_template_is_kept(base: Path, tmp_path: Path, template: object) -> None:
    """A10."""
    assert saved(base, tmp_path, lambda tokenizer: setattr(tokenizer, "chat_template", template))
    assert (tmp_path / "chat_template.jinja").read_text() == PARTS


def test_an_added_padding_token_is_a_note(base: Path, tmp_path: Path) -> None:
    """A10."""
    [note] = saved(base, tmp_path, lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}))
    assert "padding token '[PAD]'" in note


def test_added_tokens_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    """A10."""
    with pytest.raises(InvalidAdapter, match="'<tool>'"):
        saved(base, tmp_path, lambda tokenizer: tokenizer.add_tokens(["<tool>"]))
