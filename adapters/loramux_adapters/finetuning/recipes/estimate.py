"""Estimates the duration of a training run before it starts."""

from math import ceil

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.recipes.recipe import Recipe

_ASSUMED_FLOPS = 60e9
"""Per second; measured on a CPU of two cores with a base of 135 million parameters."""
_FLOPS_PER_PARAMETER = 4
"""Per token: a multiplication and an addition forward, and the same again backward through a frozen base."""
_MEASURED = "the speed of the last job on this base"
_ASSUMED = "assumed: no job was trained on this base yet"


class Estimate(BaseModel):
    """An estimate; `assumption` names the source of the speed, `tokens` counts prompts and answers of all epochs."""

    model_config = ConfigDict(frozen=True)

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    assumption: str


def estimate_training(
    report: DatasetReport, recipe: Recipe, base_parameters: int, measured_speed: float | None
) -> Estimate:
    """Estimate from the speed of the last job on the base, in tokens per second, or else from the base's size."""
    speed = measured_speed or _ASSUMED_FLOPS / (_FLOPS_PER_PARAMETER * base_parameters)
    tokens = report.tokens * recipe.epochs
    return Estimate(
        steps=ceil(report.examples / recipe.batch_size) * recipe.epochs,
        tokens=tokens,
        seconds=tokens / speed,
        tokens_per_second=speed,
        assumption=_MEASURED if measured_speed else _ASSUMED,
    )
