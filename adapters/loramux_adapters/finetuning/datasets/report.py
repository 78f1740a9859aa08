"""Reports on training files: number, lengths and similarity of examples. One pass; keeps hashes instead of texts."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.conversations import Conversation
from loramux_adapters.finetuning.datasets.examples import Example, iter_examples
from loramux_adapters.finetuning.datasets.reader import MAX_PROBLEMS, iter_conversations
from loramux_adapters.finetuning.errors import ChatTemplateError, InvalidDataset

MIN_EXAMPLES = 10
_RECOMMENDED_EXAMPLES = 50
_YIELD_EVERY, _YIELD_SECONDS = 50, 0.002
"""The checking thread sleeps after every 50 conversations: the server's event loop needs the interpreter lock."""
_MAX_DISTINCT_ANSWERS = 1000
_HASH_BYTES = 16


class ChatTokenCounter(Protocol):
    """Counts tokens as the trainer does, with the base's chat template.

    Raises:
        ChatTemplateError: the template can't render the messages (all methods).
    """

    def count_prompt(self, messages: Sequence[dict[str, str]]) -> int:
        """Return the number of tokens of a prompt."""

    def count_conversation(self, messages: Sequence[dict[str, str]]) -> int:
        """Return the number of tokens of a conversation that ends with an answer."""


class DatasetReport(BaseModel):
    """Statistics of a valid training file. Lengths are of one answer with its prompt, in tokens."""

    model_config = ConfigDict(frozen=True)

    conversations: int
    examples: int
    """Answers to train on; a conversation may have several."""
    tokens: int
    trained_tokens: int
    """Tokens of the answers, on which the loss is computed."""
    shortest: int
    median: int
    p95: int
    longest: int
    duplicates: int
    """Conversations that also occur earlier in the file."""
    contradictions: int
    """Answers that differ from an earlier one to the same prompt."""
    distinct_answers: int | None
    """None if there are more than 1,000."""
    commonest_answer_share: float | None
    warnings: tuple[str, ...]


def inspect_dataset(path: Path, chat: ChatTokenCounter, context: int) -> DatasetReport:
    """Validate the file and report on it; an example may have at most `context` tokens.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    statistics = _Statistics(chat, context)
    for number, conversation in enumerate(iter_conversations(path), start=1):
        statistics.add(number, conversation)
        if number % _YIELD_EVERY == 0:
            time.sleep(_YIELD_SECONDS)
    if statistics.problems:
        raise InvalidDataset(path.name, statistics.problems)
    if statistics.number < MIN_EXAMPLES:
        found = f"the file has {statistics.number} conversations; expected at least {MIN_EXAMPLES}"
        raise InvalidDataset(path.name, [(statistics.number, found)])
    return statistics.report()


def count_overlap(training: Path, validation: Path) -> int:
    """Return the number of conversations in the validation file that share a prompt with the training file."""
    known = {
        _hash(example["prompt"])
        for conversation in iter_conversations(training)
        for example in iter_examples(conversation)
    }
    return sum(
        any(_hash(example["prompt"]) in known for example in iter_examples(conversation))
        for conversation in iter_conversations(validation)
    )


class _Statistics:
    """Statistics of the conversations added so far."""

    def __init__(self, chat: ChatTokenCounter, context: int) -> None:
        self._chat, self._context = chat, context
        self.number = 0
        self.problems: list[tuple[int, str]] = []
        self._lengths = np.zeros(context + 1, np.int64)
        self._trained = self._duplicates = self._contradictions = 0
        self._seen: set[bytes] = set()
        self._answers_of: dict[bytes, bytes] = {}
        self._answers: Counter[bytes] | None = Counter()

    def add(self, number: int, conversation: Conversation) -> None:
        self.number = number
        whole = _hash([message.to_chat() for message in conversation.messages])
        self._duplicates += whole in self._seen
        self._seen.add(whole)
        try:
            for example in iter_examples(conversation):
                self._measure(example)
                self._compare(example)
        except ChatTemplateError as refused:  # shorter examples of this conversation would be refused too
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append((number, refused.message))

    def _measure(self, example: Example) -> None:
        length = self._chat.count_conversation(example["prompt"] + example["completion"])
        if length > self._context:
            raise ChatTemplateError(f"{length} tokens; expected at most the context of {self._context}")
        self._trained += length - self._chat.count_prompt(example["prompt"])
        self._lengths[length] += 1

    def _compare(self, example: Example) -> None:
        prompt, answer = _hash(example["prompt"]), _hash(example["completion"])
        self._contradictions += self._answers_of.setdefault(prompt, answer) != answer
        if self._answers is not None:
            self._answers[answer] += 1
            if len(self._answers) > _MAX_DISTINCT_ANSWERS:
                self._answers = None

    def report(self) -> DatasetReport:
        below, lengths = self._lengths.cumsum(), np.arange(len(self._lengths))
        examples = int(below[-1])
        quantiles = [int(np.searchsorted(below, max(1, round(examples * share)))) for share in (0, 0.5, 0.95, 1)]
        commonest = None if self._answers is None else self._answers.most_common(1)[0][1] / examples
        return DatasetReport(
            conversations=self.number,
            examples=examples,
            tokens=int(self._lengths @ lengths),
            trained_tokens=self._trained,
            shortest=quantiles[0],
            median=quantiles[1],
            p95=quantiles[2],
            longest=quantiles[3],
            duplicates=self._duplicates,
            contradictions=self._contradictions,
            distinct_answers=None if self._answers is None else len(self._answers),
            commonest_answer_share=commonest,
            warnings=tuple(self._warnings(examples, commonest)),
        )

    def _warnings(self, examples: int, commonest: float | None) -> list[str]:
        warnings = []
        if examples < _RECOMMENDED_EXAMPLES:
            warnings.append(f"only {examples} examples: first try the base with them in its prompt")
        if self._duplicates * 10 > self.number:
            warnings.append(f"{self._duplicates} of {self.number} conversations occur more than once")
        if self._contradictions * 20 > examples:
            warnings.append(f"{self._contradictions} answers differ from an earlier one to the same prompt")
        if commonest is not None and commonest > 0.5:
            warnings.append(f"{commonest:.0%} of the answers are the same: the adapter may learn to give no other")
        return warnings


def _hash(messages: Sequence[dict[str, str]]) -> bytes:
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for message in messages:
        for part in (message["role"], message["content"]):
            raw = part.encode(errors="surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()
