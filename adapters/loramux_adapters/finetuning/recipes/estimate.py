"""How long a training will take, before it runs."""

from math import ceil

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.recipes.recipe import Recipe

_ASSUMED_FLOPS = 60e9
"""Of a CPU of two cores, as it was measured with a base of 135 million parameters."""
_FLOPS_PER_PARAMETER = 4
"""For each token: a multiplication and an addition forward, and as much again back through a frozen base."""


class Estimate(BaseModel):
    """A guess: `assumption` says where the speed comes from; `tokens` are prompts and answers of all epochs."""

    model_config = ConfigDict(frozen=True)

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    assumption: str


def estimate(report: DatasetReport, recipe: Recipe, base_parameters: int, measured: float | None) -> Estimate:
    """Guess from the speed that the last job on the base had, or from the base's size if there was none."""
    speed = measured or _ASSUMED_FLOPS / (_FLOPS_PER_PARAMETER * base_parameters)
    tokens = report.tokens * recipe.epochs
    return Estimate(
        steps=ceil(report.examples / recipe.batch_size) * recipe.epochs,
        tokens=tokens,
        seconds=tokens / speed,
        tokens_per_second=speed,
        assumption="as the last job on this base" if measured else "assumed: no job was trained on this base yet",
    )
