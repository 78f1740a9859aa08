"""Prompts that occur twice: equal ones after normalizing, and nearly equal ones by their word shingles."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Literal

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.evaluation.items import Chat, Item

Leak = Literal["exact", "near"]
MIN_SIMILARITY = 0.9
"""Jaccard similarity of the shingles of two prompts from which they count as nearly equal."""
_SHINGLE_WORDS = 3
_MAX_CANDIDATES = 100
"""At most this many items are compared by one shingle: more share a rare one only where all come from few templates."""
_EDGE_PUNCTUATION = re.compile(r"""[.,;:!?…"'“”‘’«»()\[\]{}]+(?=\s|$)|(?<!\S)["'“”‘’«»()\[\]{}¿¡]+""")

_Shingles = frozenset[int]
"""Hashes of the runs of words: 64 bits each, so that two runs hardly ever have the same."""


def normalize(text: str) -> str:
    """Return the text without differences in case, white space, Unicode form and punctuation around words.

    Signs within or between words stay, because "3 - 5" is not "3 + 5".
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_EDGE_PUNCTUATION.sub(" ", folded).split())


def prompt_key(item: Item) -> int:
    """Return a hash of the normalized messages of a question and of its tools, equal within a process."""
    messages = tuple((message["role"], normalize(answer_text(message))) for message in item.messages)
    return hash((messages, json.dumps(item.tools, sort_keys=True) if item.tools else ""))


def find_leaks(training: Iterable[Item], held_out: Sequence[Item]) -> dict[int, Leak]:
    """Return the held-out items, by index, whose prompts are in the training data, or nearly are.

    Two prompts are nearly equal if the shingles of their turns have a Jaccard similarity of at least MIN_SIMILARITY
    and their system messages are equal. The time grows about linearly with the items.
    """
    by_key: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(held_out):
        by_key[prompt_key(item)].append(index)
    similar = _SimilarItems([_shingles(item.messages) for item in held_out])
    leaks: dict[int, Leak] = {}
    for item in training:
        leaks |= dict.fromkeys(by_key.pop(prompt_key(item), ()), "exact")
        for index in similar.pop(_shingles(item.messages)):
            leaks.setdefault(index, "near")
    return dict(sorted(leaks.items()))


def find_contradictions(items: Sequence[Item]) -> list[list[int]]:
    """Return groups of indices of items that have the same prompt and different answers, after normalizing."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[prompt_key(item)].append(index)
    return [group for group in groups.values() if len({normalize(items[index].expected) for index in group}) > 1]


class _SimilarItems:
    """Finds the sets of shingles that are similar to another one, by prefix filtering.

    Similar sets share one of their few first shingles in any common order, so only sets that do are compared (Bayardo
    et al., 2007). The rarest come first, and shingles that no set here has are rarest of all.
    """

    def __init__(self, groups: Sequence[_Shingles]) -> None:
        self._groups = dict(enumerate(groups))
        self._counts = Counter(shingle for group in groups for shingle in group)
        self._by_shingle: dict[int, list[int]] = defaultdict(list)
        for index, group in enumerate(groups):
            for shingle in self._first(group):
                self._by_shingle[shingle].append(index)

    def pop(self, shingles: _Shingles) -> list[int]:
        """Return the indices of the similar sets, and remove these."""
        found = [index for index in self._candidates(shingles) if self._is_similar(index, shingles)]
        for index in found:
            del self._groups[index]
        return found

    def _candidates(self, shingles: _Shingles) -> set[int]:
        candidates: set[int] = set()
        for shingle in self._first(shingles):
            indices = self._by_shingle.get(shingle)
            if indices:
                indices[:] = filter(self._groups.__contains__, indices)
                candidates.update(indices[:_MAX_CANDIDATES])
        return candidates

    def _is_similar(self, index: int, shingles: _Shingles) -> bool:
        shared = len(shingles & self._groups[index])
        return shared >= MIN_SIMILARITY * (len(shingles) + len(self._groups[index]) - shared)

    def _first(self, shingles: _Shingles) -> list[int]:
        count = len(shingles) - ceil(MIN_SIMILARITY * len(shingles)) + 1
        return sorted(shingles, key=lambda shingle: (self._counts[shingle], shingle))[:count]


def _shingles(chat: Chat) -> _Shingles:
    """Return the runs of three words of the turns; the system messages, which items of a task share, belong to each."""
    words = [
        word for message in chat if message["role"] != "system" for word in normalize(answer_text(message)).split()
    ]
    system = hash(
        "\n".join(normalize(content_text(message["content"])) for message in chat if message["role"] == "system")
    )
    starts = range(max(1, len(words) - _SHINGLE_WORDS + 1))
    return frozenset(hash((*words[start : start + _SHINGLE_WORDS], system)) for start in starts)
