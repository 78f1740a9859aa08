"""The plan of a job: what is known before it is trained, and the events that describe it to the user."""

import json
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.jobs.models import JobEvent
from loramux_adapters.finetuning.recipes.estimate import Estimate
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions
from loramux_adapters.finetuning.recipes.recipe import Recipe

TrainingCost = Callable[[int, float], dict[str, float]]
"""Cost in US dollars of training on N tokens in N seconds, by method of pricing."""


class RequestedHyperparameters(BaseModel):
    """The hyperparameters of a request, open ones included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hyperparameters: Hyperparameters = Hyperparameters()
    lora: LoraOptions = LoraOptions()


class JobPlan(BaseModel):
    """The result of planning a job: reports on its files, the recipe, and estimates."""

    model_config = ConfigDict(frozen=True)

    report: DatasetReport
    validation_report: DatasetReport | None
    overlap: int
    """Conversations of the validation file whose prompt is in the training file too."""
    recipe: Recipe
    estimate: Estimate
    cost: dict[str, float]


def plan_events(plan: JobPlan) -> list[JobEvent]:
    """Return events that describe a plan: its files, an estimate, and the chosen hyperparameters."""
    report, guess = plan.report, plan.estimate
    events = [
        JobEvent(
            f"Training file: {report.examples:,} examples, {report.tokens:,} tokens "
            f"({report.trained_tokens:,} of them trained on), the longest {report.longest:,}"
        ),
        *(JobEvent(f"Training file: {warning}", "warn") for warning in report.warnings),
    ]
    if plan.overlap:
        message = f"{plan.overlap} validation prompts are in the training file too: gains may not be real"
        events.append(JobEvent(message, "warn"))
    dollars = ", ".join(f"${cost:.4f} by {method.replace('_', ' ')}" for method, cost in plan.cost.items() if cost)
    events.append(
        JobEvent(
            f"Estimate: {guess.steps:,} steps, {guess.tokens:,} tokens, about {guess.seconds / 60:.1f} minutes "
            f"at {guess.tokens_per_second:,.0f} tokens/s ({guess.assumption})" + (f"; {dollars}" if dollars else "")
        )
    )
    chosen = plan.recipe.model_dump(mode="json", exclude_none=True)
    events.append(JobEvent(f"Hyperparameters: {json.dumps(chosen)}"))
    return events
