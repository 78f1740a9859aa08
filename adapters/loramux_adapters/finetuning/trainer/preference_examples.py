"""Pairs of answers as tokens, as the trainer takes them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.datasets.preferences import PreferencePair, read_preferences
from loramux_adapters.finetuning.errors import ChatTemplateError


class TokenizedPair(NamedTuple):
    """The token ids of a prompt and of its two answers, each int32 [tokens]."""

    prompt: np.ndarray
    preferred: np.ndarray
    rejected: np.ndarray
    place: str
    """Where the pair is: the line and the name of its file."""

    @property
    def longest(self) -> int:
        """The number of tokens of the longer answer with the prompt."""
        return len(self.prompt) + self.answer_length

    @property
    def total_tokens(self) -> int:
        """The number of tokens of both answers, each with the prompt."""
        return 2 * len(self.prompt) + len(self.preferred) + len(self.rejected)

    @property
    def answer_length(self) -> int:
        """The number of tokens of the longer answer."""
        return max(len(self.preferred), len(self.rejected))


def tokenize_pairs(
    path: Path, tokenizer: ExampleTokenizer, pairs: Iterable[PreferencePair] | None = None
) -> list[TokenizedPair]:
    """Tokenize the pairs of a file of preferences: all, or `pairs`, which were read from it.

    Raises:
        InvalidDataset: it has invalid lines.
        ChatTemplateError: names the first line that the chat template refuses.
        OSError: it can't be read.
    """
    read = read_preferences(path) if pairs is None else pairs
    return [_tokenize(pair, f"line {pair.line} of {path.name}", tokenizer) for pair in read]


def _tokenize(pair: PreferencePair, place: str, tokenizer: ExampleTokenizer) -> TokenizedPair:
    try:
        preferred, rejected = (
            tokenizer.tokenize(pair.prompt, message, pair.tools) for message in (pair.preferred, pair.rejected)
        )
    except ChatTemplateError as error:
        raise ChatTemplateError(f"{place}: {error.message}") from error
    return TokenizedPair(
        prompt=np.array(preferred.prompt, np.int32),
        preferred=np.array(preferred.answer, np.int32),
        rejected=np.array(rejected.answer, np.int32),
        place=place,
    )


def to_pair_dataset(pairs: Sequence[TokenizedPair]) -> Dataset:
    """Return a data set of TRL's columns `prompt_ids`, `chosen_ids` and `rejected_ids`."""
    return Dataset.from_dict(
        {
            "prompt_ids": [pair.prompt for pair in pairs],
            "chosen_ids": [pair.preferred for pair in pairs],
            "rejected_ids": [pair.rejected for pair in pairs],
        }
    )
