"""How good an answer is, when there is one right answer to hold it against.

A scorer gives every answer a few numbers between 0 and 1; the first is the one that counts, the others say why. What
an example expects stands in its own folder (compare.yaml), so that new ones need no code here.
"""

from typing import Annotated

from pydantic import Field

from loramux_adapters.evaluation.scorers.base import Scores as Scores
from loramux_adapters.evaluation.scorers.base import ScoringError as ScoringError
from loramux_adapters.evaluation.scorers.function import FunctionScorer
from loramux_adapters.evaluation.scorers.judge import JudgeScorer
from loramux_adapters.evaluation.scorers.structured import JsonScorer
from loramux_adapters.evaluation.scorers.style import StyleScorer
from loramux_adapters.evaluation.scorers.texts import ExactScorer, LabelScorer, TextScorer

Scorer = Annotated[
    ExactScorer | LabelScorer | JsonScorer | StyleScorer | TextScorer | FunctionScorer | JudgeScorer,
    Field(discriminator="type"),
]
