"""Statistics of examples, in one pass: lengths, and repeated and contradicting answers. Keeps hashes, no texts."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from loramux_adapters.finetuning.datasets.examples import ChatMessage, Tool

_MAX_DISTINCT_ANSWERS = 1000
_HASH_BYTES = 16


class LengthHistogram:
    """Counts examples by their length, which is at most `longest`, in tokens."""

    def __init__(self, longest: int) -> None:
        self._counts = np.zeros(longest + 1, np.int64)

    def add(self, length: int) -> None:
        """Count one example."""
        self._counts[length] += 1

    @property
    def tokens(self) -> int:
        """The sum of all lengths."""
        return int(self._counts @ np.arange(len(self._counts)))

    def quantiles(self, *shares: float) -> list[int]:
        """Return the lengths that these shares of the examples, each from 0 to 1, do not exceed."""
        below = np.cumsum(self._counts)
        return [int(np.searchsorted(below, max(1, round(int(below[-1]) * share)))) for share in shares]


class AnswerStatistics:
    """Finds repeated lines, answers that contradict earlier ones, and the commonest answer."""

    def __init__(self) -> None:
        self.duplicates = self.contradictions = 0
        self._lines: set[bytes] = set()
        self._known: dict[bytes, bytes] = {}
        self._answers: Counter[bytes] | None = Counter()

    def add_line(self, line: bytes) -> None:
        """Count a line, by its hash, if it occurred before."""
        self.duplicates += line in self._lines
        self._lines.add(line)

    def add_fact(self, key: bytes, value: bytes) -> None:
        """Count a contradiction if the key had another value the first time."""
        self.contradictions += self._known.setdefault(key, value) != value

    def add_answer(self, answer: bytes) -> None:
        """Count an answer, by its hash."""
        if self._answers is None:
            return
        self._answers[answer] += 1
        if len(self._answers) > _MAX_DISTINCT_ANSWERS:
            self._answers = None

    @property
    def distinct(self) -> int | None:
        """The number of different answers; None if there are more than 1,000."""
        return None if self._answers is None else len(self._answers)

    @property
    def commonest(self) -> int | None:
        """How often the commonest answer occurs; None if there are more than 1,000 different ones."""
        return None if self._answers is None else self._answers.most_common(1)[0][1]


def hash_messages(messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> bytes:
    """Return a hash of messages and tools, which does not depend on the order of their keys."""
    text = json.dumps([messages, tools], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()
