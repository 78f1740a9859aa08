"""Choice of a scorer by the form of the expected answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores
from loramux_adapters.evaluation.scorers.structured import JsonScorer
from loramux_adapters.evaluation.scorers.texts import ChrfScorer

_MAX_LABEL_WORDS = 8
"""Expected answers of at most this many words are right or wrong; longer ones can be nearly right."""


class AutomaticScorer(NamedTuple):
    """A scorer, and the names under which its scores are reported; the first one decides."""

    scorer: BaseScorer
    names: Mapping[str, str]
    """The scorer's own name of a score, by the reported name."""

    @property
    def measure(self) -> str:
        """The name of the score that decides."""
        return next(iter(self.names))

    def score(self, answer: str, expected: str) -> Scores:
        """Score an answer, 0..1 each."""
        scores = self.scorer.score(answer, expected)
        return {name: scores[own] for name, own in self.names.items()}


def choose_scorer(expected: Sequence[str]) -> AutomaticScorer:
    """Choose how answers are scored: as JSON if all expected ones are JSON objects, else as labels or as texts."""
    if all(parse_json_object(answer) is not None for answer in expected):
        names = {"same JSON": "correct", "valid JSON": "valid", "members": "fields"}
        return AutomaticScorer(JsonScorer(type="json"), names)
    exact, similarity = {"exact match": "exact"}, {"chrF": "chrF"}
    is_short = all(len(answer.split()) <= _MAX_LABEL_WORDS for answer in expected)
    return AutomaticScorer(ChrfScorer(type="chrf"), exact | similarity if is_short else similarity | exact)
