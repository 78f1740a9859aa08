"""Examples as tokens and labels, as the trainer takes them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.datasets.examples import Example
from loramux_adapters.finetuning.errors import ChatTemplateError, TrainingError

IGNORED_LABEL = -100


class TokenizedExample(NamedTuple):
    """The token ids of a prompt with its answer, int32 [tokens], and the number of tokens of the prompt."""

    tokens: np.ndarray
    prompt_length: int

    @property
    def answer_length(self) -> int:
        """The number of tokens to learn."""
        return len(self.tokens) - self.prompt_length


def tokenize_examples(examples: Sequence[Example], tokenizer: ExampleTokenizer) -> list[TokenizedExample]:
    """Tokenize examples.

    Raises:
        ChatTemplateError: names the first example that the chat template refuses.
    """
    return [_tokenize(number, example, tokenizer) for number, example in enumerate(examples, start=1)]


def _tokenize(number: int, example: Example, tokenizer: ExampleTokenizer) -> TokenizedExample:
    try:
        prompt, answer = tokenizer.tokenize(example["prompt"], example["completion"][0]["content"])
    except ChatTemplateError as error:
        raise ChatTemplateError(f"answer {number} of the data: {error.message}") from error
    return TokenizedExample(np.array([*prompt, *answer], np.int32), len(prompt))


def check_lengths(examples: Sequence[TokenizedExample], max_length: int) -> None:
    """Check that no example exceeds `max_length`: TRL would truncate its end, the answer, without a warning.

    Raises:
        TrainingError: an example is too long.
    """
    for number, example in enumerate(examples, start=1):
        if len(example.tokens) > max_length:
            raise TrainingError(
                f"answer {number} of the data has {len(example.tokens)} tokens with its prompt; "
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
