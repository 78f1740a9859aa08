"""The best constant answer: what a variant must beat to be of any use."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

_MAX_CANDIDATES = 30
"""The most frequent expected answers are tried."""


def best_constant(score: Callable[[str, str], float], expected: Sequence[str]) -> tuple[str | None, list[float]]:
    """Return the single answer that scores highest on all items, and its score of each item.

    The candidates are the expected answers themselves; one that is expected once does not count where it is. None and
    scores of 0 if no candidate scores above 0. `score` takes an answer and the expected one.
    """
    best, best_scores = None, [0.0] * len(expected)
    for answer, count in Counter(expected).most_common(_MAX_CANDIDATES):
        scores = constant_scores(score, answer, expected)
        if count == 1:
            scores[expected.index(answer)] = 0.0
        if sum(scores) > sum(best_scores):
            best, best_scores = answer, scores
    return best, best_scores


def most_frequent_answer(expected: Iterable[str]) -> str | None:
    """Return the most frequent expected answer; None if each occurs once, so that no constant is ever right."""
    counts = Counter(answer.strip() for answer in expected)
    answer, count = max(counts.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
    return answer if count > 1 else None


def constant_scores(score: Callable[[str, str], float], constant: str | None, expected: Sequence[str]) -> list[float]:
    """Return the scores of one and the same answer to items; 0 for each if `constant` is None.

    `score` takes an answer and the expected one; it is called once for each distinct expected answer.
    """
    if constant is None:
        return [0.0] * len(expected)
    by_expected = {answer: score(constant, answer) for answer in dict.fromkeys(expected)}
    return [by_expected[answer] for answer in expected]
