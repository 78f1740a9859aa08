"""What a training file is like: how many examples, how long, how alike. One pass, hashes instead of texts."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.conversations import PROBLEMS_SHOWN, Conversation, Row, conversations, rows_of
from loramux_adapters.finetuning.errors import InvalidDataset, RefusedChat

FEWEST_EXAMPLES = 10
_ENOUGH_EXAMPLES = 50
_BREATH_EVERY, _BREATH_SECONDS = 50, 0.002
"""After so many examples the checking thread sleeps so long: who serves in the same process needs the interpreter."""
_MOST_ANSWERS = 1000
_HASH_BYTES = 16


class ChatTokens(Protocol):
    """Counts as the trainer will: by the base's own chat template; raises RefusedChat where that has no form for it."""

    def prompt(self, messages: Sequence[dict[str, str]]) -> int:
        """The tokens of what comes before an answer."""

    def whole(self, messages: Sequence[dict[str, str]]) -> int:
        """The tokens of a conversation that ends with an answer."""


class DatasetReport(BaseModel):
    """A file that can be trained on. Lengths are of one answer with its prompt, in tokens."""

    model_config = ConfigDict(frozen=True)

    conversations: int
    examples: int
    """Answers to learn from; a conversation may have several."""
    tokens: int
    trained_tokens: int
    """Those of the answers, which the loss is on."""
    shortest: int
    median: int
    p95: int
    longest: int
    duplicates: int
    """Conversations that came before in the same file."""
    contradictions: int
    """Prompts that came before with another answer."""
    distinct_answers: int | None
    """None if there are more than a thousand."""
    commonest_answer_share: float | None
    warnings: tuple[str, ...]


def inspect(path: Path, chat: ChatTokens, context: int) -> DatasetReport:
    """Check and count the file; an example may have `context` tokens at most.

    Raises InvalidDataset with the first problems and their line numbers, and OSError.
    """
    survey = _Survey(chat, context)
    for number, conversation in enumerate(conversations(path), start=1):
        survey.add(number, conversation)
        if number % _BREATH_EVERY == 0:
            time.sleep(_BREATH_SECONDS)
    if survey.problems:
        raise InvalidDataset(path.name, survey.problems)
    if survey.number < FEWEST_EXAMPLES:
        found = f"it has {survey.number} conversations, and at least {FEWEST_EXAMPLES} are needed"
        raise InvalidDataset(path.name, [(survey.number, found)])
    return survey.report()


def overlap(training: Path, validation: Path) -> int:
    """Return how many conversations of the validation file have a prompt that the training file has too."""
    known = {_hash(row["prompt"]) for conversation in conversations(training) for row in rows_of(conversation)}
    return sum(
        any(_hash(row["prompt"]) in known for row in rows_of(conversation))
        for conversation in conversations(validation)
    )


class _Survey:
    """What was seen so far: hashes instead of texts."""

    def __init__(self, chat: ChatTokens, context: int) -> None:
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
        whole = _hash([message.as_chat() for message in conversation.messages])
        self._duplicates += whole in self._seen
        self._seen.add(whole)
        try:
            for row in rows_of(conversation):
                self._measure(row)
                self._compare(row)
        except RefusedChat as refused:  # what follows it in the conversation would be no better
            if len(self.problems) < PROBLEMS_SHOWN:
                self.problems.append((number, refused.message))

    def _measure(self, row: Row) -> None:
        length = self._chat.whole(row["prompt"] + row["completion"])
        if length > self._context:
            raise RefusedChat(f"{length} tokens, more than the context of {self._context}")
        self._trained += length - self._chat.prompt(row["prompt"])
        self._lengths[length] += 1

    def _compare(self, row: Row) -> None:
        prompt, answer = _hash(row["prompt"]), _hash(row["completion"])
        self._contradictions += self._answers_of.setdefault(prompt, answer) != answer
        if self._answers is not None:
            self._answers[answer] += 1
            if len(self._answers) > _MOST_ANSWERS:
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
        if examples < _ENOUGH_EXAMPLES:
            warnings.append(f"{examples} examples are few: try the base with them in its prompt first")
        if self._duplicates * 10 > self.number:
            warnings.append(f"{self._duplicates} of {self.number} conversations occur more than once")
        if self._contradictions * 20 > examples:
            warnings.append(f"{self._contradictions} answers differ from an earlier one to the same prompt")
        if commonest is not None and commonest > 0.5:
            warnings.append(f"{commonest:.0%} of the answers are the same: the adapter may learn to say nothing else")
        return warnings


def _hash(messages: Sequence[dict[str, str]]) -> bytes:
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for message in messages:
        for part in (message["role"], message["content"]):
            raw = part.encode(errors="surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()
