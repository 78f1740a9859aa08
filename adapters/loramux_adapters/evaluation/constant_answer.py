"""The best constant answer: what a variant must beat to be of any use."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence


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
