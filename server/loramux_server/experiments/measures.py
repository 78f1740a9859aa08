"""Scores answers of live traffic, whose expected answers are unknown: by rules, by a JSON schema, or by a judge."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import Field, TypeAdapter, ValidationError

from loramux_adapters.evaluation.grading import grading_messages, parse_grade
from loramux_adapters.evaluation.scorers.structured import JsonScorer
from loramux_adapters.evaluation.scorers.style import StyleScorer
from loramux_server.experiments.errors import ExperimentInvalid
from loramux_server.experiments.models import FeedbackQuality, JudgeQuality, Quality

MAX_SCORED_CHARACTERS = 20_000
"""A longer answer is cut before it is scored: patterns and schemas are applied to the answers of models."""
MAX_SCORER_BYTES = 64_000

_SCORER: TypeAdapter[StyleScorer | JsonScorer] = TypeAdapter(
    Annotated[StyleScorer | JsonScorer, Field(discriminator="type")]
)
AskJudge = Callable[[str, Sequence[Mapping[str, str]]], Awaitable[str]]
"""Asks a model with messages, and returns its answer; raises ScoringError if there is none."""


class Measure(Protocol):
    """Scores answers."""

    name: str

    async def score(self, question: str, answer: str) -> float:
        """Return the score of an answer, 0..1.

        Raises:
            ScoringError: the answer could not be scored, for a reason that says nothing about it.
        """


def build_measure(quality: Quality, ask_judge: AskJudge) -> Measure | None:
    """Return the measure, None for feedback, which users give.

    Raises:
        ExperimentInvalid: the scorer is invalid, or needs an expected answer.
    """
    if isinstance(quality, FeedbackQuality):
        return None
    if isinstance(quality, JudgeQuality):
        return JudgeMeasure(quality, ask_judge)
    if len(json.dumps(quality.scorer)) > MAX_SCORER_BYTES:
        raise ExperimentInvalid(f"The scorer is larger than {MAX_SCORER_BYTES} bytes.", "quality.scorer")
    return ScorerMeasure(_scorer(quality.scorer))


class ScorerMeasure:
    """A scorer that needs no expected answer."""

    def __init__(self, scorer: StyleScorer | JsonScorer) -> None:
        self._scorer = scorer
        self.name = "in style" if isinstance(scorer, StyleScorer) else "valid JSON"

    async def score(self, question: str, answer: str) -> float:  # noqa: ARG002 - judges need the question
        """Return 1 if all rules are met, or the answer is one JSON object that fits the schema, else 0."""
        return await asyncio.to_thread(self._score, answer[:MAX_SCORED_CHARACTERS])

    def _score(self, text: str) -> float:
        if isinstance(self._scorer, StyleScorer):
            return self._scorer.score(text, "")["in style"]
        return self._scorer.score(text, "{}")["valid"]


class JudgeMeasure:
    """A model that grades answers from 1 to 5."""

    name = "judged"

    def __init__(self, quality: JudgeQuality, ask: AskJudge) -> None:
        self._quality, self._ask = quality, ask

    async def score(self, question: str, answer: str) -> float:
        """Return the grade, scaled to 0..1.

        Raises:
            ScoringError: the judge did not answer with a grade.
        """
        content = {"question": question, "answer to grade": answer[:MAX_SCORED_CHARACTERS]}
        return parse_grade(await self._ask(self._quality.model, grading_messages(self._quality.rubric, content)))


_UNUSABLE = dict.fromkeys(
    ("exact", "label", "chrf"), "needs an expected answer, which live requests do not have: use style or json"
) | {"function": "would run code of a client on the server: use style, json or a judge"}


def _scorer(given: Mapping[str, Any]) -> StyleScorer | JsonScorer:
    """Return the scorer; it says why a scorer that `loramux compare` has can't be used on live traffic."""
    name = str(given.get("type"))[:80]
    if name in _UNUSABLE:
        raise _invalid(f"The scorer {name} {_UNUSABLE[name]}.")
    if name not in ("style", "json"):
        raise _invalid(f"unknown scorer {name!r}; expected style or json")
    try:
        scorer = _SCORER.validate_python(given)
    except (ValidationError, RecursionError) as error:
        raise _invalid(f"The scorer is invalid: {_first_problem(error)}") from error
    _check_needs_no_answer(scorer)
    return scorer


def _check_needs_no_answer(scorer: StyleScorer | JsonScorer) -> None:
    if isinstance(scorer, JsonScorer):
        if _refers_elsewhere(scorer.json_schema):
            raise _invalid("The schema refers to another document; only references within it (#...) are followed.")
        return
    for name, rule in scorer.rules.items():
        if rule.keep is not None:
            raise _invalid(f"The rule {name[:80]!r} has `keep`, which needs an expected answer: remove it.")


def _refers_elsewhere(schema: Any) -> bool:
    """Whether a schema has a reference that would be fetched from the network."""
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            references = (value.get(key) for key in ("$ref", "$dynamicRef", "$recursiveRef"))
            if any(isinstance(target, str) and not target.startswith("#") for target in references):
                return True
            if isinstance(value.get("$id"), str):  # a new base for references
                return True
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:500]
    return "it is nested too deeply"


def _invalid(message: str) -> ExperimentInvalid:
    return ExperimentInvalid(message, "quality.scorer")
