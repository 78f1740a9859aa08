"""Choice of a scorer, and of the measure that decides, by the form of the expected answers."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.calls import are_calls
from loramux_adapters.evaluation.items import Tools
from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_adapters.evaluation.reasoning import after_reasoning
from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores
from loramux_adapters.evaluation.scorers.calls import CallScorer, tool_schemas
from loramux_adapters.evaluation.scorers.structured import JsonScorer
from loramux_adapters.evaluation.scorers.texts import ChrfScorer, LabelScorer

MAX_LABELS = 100
_MIN_CALLS = 0.5
"""Share of expected answers that call tools, from which on calls are what is scored."""
_MAX_LABEL_WORDS = 8
"""Expected answers of at most this many words are right or wrong; longer ones can be nearly right."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
"""A word; in scripts without spaces, a character."""


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
        """Score an answer, 0..1 each, without the reasoning that it begins with."""
        scores = self.scorer.score(after_reasoning(answer), after_reasoning(expected))
        return {name: scores[own] for name, own in self.names.items()}

    def among(self, tools: Tools) -> "AutomaticScorer":
        """Return the scorer of one request, where only calls of its own tools are valid; if it has none, of any."""
        if not tools or not isinstance(self.scorer, CallScorer):
            return self
        return self._replace(scorer=CallScorer(type="calls", tools=tool_schemas([tools])))

    def decide_by(self, measure: str) -> "AutomaticScorer":
        """Return the same scorer with another measure that decides."""
        return self._replace(names={measure: self.names[measure], **self.names})


def choose_scorer(expected: Sequence[str], tools: Iterable[Tools] = ()) -> AutomaticScorer:
    """Choose how answers are scored, and which score decides, by all expected answers and the tools of their requests.

    Calls of tools, if at least half of the answers are some, by being equal; JSON objects by the share of their members
    that are equal; labels (few distinct short answers that are repeated) by the label that an answer names; other short
    answers by being equal; longer ones by chrF.
    """
    expected = [after_reasoning(answer) for answer in expected]
    if are_calls(expected, _MIN_CALLS):
        names = {"right call": "correct", "right arguments": "arguments", "right tool": "name", "valid call": "valid"}
        return AutomaticScorer(CallScorer(type="calls", tools=tool_schemas(tools)), names)
    if all(parse_json_object(answer) is not None for answer in expected):
        names = {"field accuracy": "fields", "same JSON": "correct", "valid JSON": "valid"}
        return AutomaticScorer(JsonScorer(type="json"), names)
    exact, similarity = {"exact match": "exact"}, {"chrF": "chrF"}
    if labels := find_labels(expected):
        scorer = LabelScorer(type="label", labels=frozenset(labels))
        return AutomaticScorer(scorer, {"label accuracy": "accuracy"} | exact)
    chrf = ChrfScorer(type="chrf")
    return AutomaticScorer(chrf, exact | similarity if are_short(expected) else similarity | exact)


def find_labels(expected: Sequence[str]) -> list[str]:
    """Return the labels: 2 to MAX_LABELS short answers that occur twice on average; none if the answers are others."""
    counts = Counter(answer.strip() for answer in expected)
    are_labels = 2 <= len(counts) <= min(MAX_LABELS, len(expected) / 2) and "" not in counts and are_short(expected)
    return sorted(counts) if are_labels else []


def are_short(expected: Sequence[str]) -> bool:
    """Whether answers are so short that they are right or wrong; longer ones can be nearly right."""
    return all(len(_WORD.findall(answer)) <= _MAX_LABEL_WORDS for answer in expected)
