"""Examples as tokens and labels, as the trainer takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from datasets import Dataset

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.datasets.examples import Example, examples_of
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.errors import ChatTemplateError, TrainingError

IGNORED_LABEL = -100


class Measured(Protocol):
    """An example whose longest answer is known."""

    @property
    def place(self) -> str:
        """Where it is: the line and the name of its file."""

    @property
    def longest(self) -> int:
        """The number of tokens of the prompt with its longest answer."""


class TokenizedExample(NamedTuple):
    """The token ids of a prompt with its answer, int32 [tokens], and the number of tokens of the prompt."""

    tokens: np.ndarray
    prompt_length: int
    place: str
    """Where the answer is: the line and the name of its file."""

    @property
    def longest(self) -> int:
        """The number of tokens of the prompt with its answer."""
        return len(self.tokens)

    @property
    def total_tokens(self) -> int:
        """The number of tokens that a pass over the example computes."""
        return len(self.tokens)

    @property
    def answer_length(self) -> int:
        """The number of tokens to learn."""
        return len(self.tokens) - self.prompt_length


def tokenize_file(path: Path, tokenizer: ExampleTokenizer) -> list[TokenizedExample]:
    """Read a file of conversations and tokenize its examples.

    Raises:
        InvalidDataset: it has invalid lines.
        ChatTemplateError: names the first line that the chat template refuses.
        OSError: it can't be read.
    """
    places = ((f"line {item.line} of {path.name}", item) for item in read_dataset(path))
    return [_tokenize(example, place, tokenizer) for place, item in places for example in examples_of([item])]


def _tokenize(example: Example, place: str, tokenizer: ExampleTokenizer) -> TokenizedExample:
    try:
        prompt, answer = tokenizer.tokenize(example["prompt"], example["completion"][0], example["tools"])
    except ChatTemplateError as error:
        raise ChatTemplateError(f"{place}: {error.message}") from error
    return TokenizedExample(np.array([*prompt, *answer], np.int32), len(prompt), place)


def check_lengths(examples: Sequence[Measured], max_length: int) -> None:
    """Check that no example exceeds `max_length`: TRL would truncate its end, the answer, without a warning.

    Raises:
        TrainingError: an example is too long.
    """
    for example in examples:
        if example.longest > max_length:
            raise TrainingError(
                f"{example.place}: an answer has {example.longest} tokens with its prompt; "
                f"expected at most the max_length of {max_length}"
            )


def to_dataset(examples: Sequence[TokenizedExample]) -> Dataset:
    """Return a data set of the columns `input_ids` and `labels`, which are IGNORED_LABEL for the prompts."""
    labels = []
    for example in examples:
        label = example.tokens.copy()
        label[: example.prompt_length] = IGNORED_LABEL
        labels.append(label)
    return Dataset.from_dict({"input_ids": [example.tokens for example in examples], "labels": labels})
