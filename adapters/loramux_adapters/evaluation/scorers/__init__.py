"""Scorers: how good an answer is, measured against the expected one.

A scorer gives each answer a few named scores, 0..1; the first one decides, the others explain it. Settings come from
a plan such as an example's compare.yaml.
"""

from typing import Annotated

from pydantic import Field

from loramux_adapters.evaluation.scorers.base import Scores as Scores
from loramux_adapters.evaluation.scorers.base import ScoringError as ScoringError
from loramux_adapters.evaluation.scorers.calls import CallScorer
from loramux_adapters.evaluation.scorers.function import FunctionScorer
from loramux_adapters.evaluation.scorers.structured import JsonScorer
from loramux_adapters.evaluation.scorers.style import StyleScorer
from loramux_adapters.evaluation.scorers.texts import ChrfScorer, ExactScorer, LabelScorer

Scorer = Annotated[
    ExactScorer | LabelScorer | JsonScorer | CallScorer | StyleScorer | ChrfScorer | FunctionScorer,
    Field(discriminator="type"),
]
