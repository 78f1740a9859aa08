"""How good an answer is, by what the data's own answers look like; and how sure a mean of that is."""

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

Score = Callable[[str, str], float]
"""Of an answer and the expected one, 0..1."""

_RESAMPLES = 2000
_WORDS_OF_A_LABEL = 8
"""Expected answers of no more words than these are right or wrong; longer ones can be nearly right."""


class Mean(BaseModel):
    """A mean, with the bounds of its 95 % bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Estimate it from one value an item, at least one; the same values give the same bounds."""
        samples = np.asarray(values, dtype=np.float64)
        drawn = np.random.default_rng(0).integers(len(samples), size=(_RESAMPLES, len(samples)))
        low, high = np.quantile(samples[drawn].mean(axis=1), [0.025, 0.975])
        return cls(low=float(low), mean=float(samples.mean()), high=float(high))

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Measure(NamedTuple):
    """What an answer's quality is: its name, and the score."""

    name: str
    score: Score


def measures_for(expected: Sequence[str]) -> list[Measure]:
    """Choose how answers are scored; the first measure is the one that decides."""
    if all(_object(answer) is not None for answer in expected):
        return [
            Measure("same JSON", lambda answer, wanted: float(_object(answer) == _object(wanted))),
            Measure("valid JSON", lambda answer, _: float(_object(answer) is not None)),
            Measure("members", _members),
        ]
    exact = Measure("exact match", lambda answer, wanted: float(answer.strip() == wanted.strip()))
    similarity = Measure("word similarity", _similarity)
    is_short = all(len(answer.split()) <= _WORDS_OF_A_LABEL for answer in expected)
    return [exact, similarity] if is_short else [similarity, exact]


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _members(answer: str, wanted: str) -> float:
    """The share of the expected members that the answer has, with the expected values."""
    found, right = _object(answer) or {}, _object(wanted) or {}
    return sum(key in found and found[key] == value for key, value in right.items()) / len(right) if right else 1.0


def _similarity(answer: str, wanted: str) -> float:
    """Twice the words that both have in the same order, over the words of both."""
    return SequenceMatcher(None, answer.split(), wanted.split(), autojunk=False).ratio()
