"""The plan of a job: what is known before it is trained, and the events that describe it to the user."""

import json
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.durations import format_duration
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.jobs.forecast import JobForecast
from loramux_adapters.finetuning.jobs.models import JobEvent
from loramux_adapters.finetuning.recipes.estimate import Estimate, JobWork
from loramux_adapters.finetuning.recipes.hyperparameters import Auto, Hyperparameters, LoraOptions
from loramux_adapters.finetuning.recipes.recipe import Method, Recipe

TrainingCost = Callable[[int, float], dict[str, float | None]]
"""Cost in US dollars of training on N tokens in N seconds, by method of pricing."""


class RequestedHyperparameters(BaseModel):
    """The hyperparameters of a request, open ones included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "supervised"
    hyperparameters: Hyperparameters = Hyperparameters()
    beta: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Of DPO."""
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
    work: JobWork
    on_gpu: bool = False
    """Whether the job is expected to train on a GPU."""
    cost: dict[str, float | None]


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
            f"Estimate: {guess.steps:,} steps, {guess.tokens:,} tokens, {format_duration(guess.total_seconds)} "
            f"({_phase_durations(guess)}; {guess.assumption})" + (f"; {dollars}" if dollars else "")
        )
    )
    chosen = plan.recipe.model_dump(mode="json", exclude_none=True)
    events.append(JobEvent(f"Hyperparameters: {json.dumps(chosen)}"))
    return events


def queue_event(forecast: JobForecast) -> JobEvent | None:
    """Return an event with a waiting job's place in the queue; None if no job is before it."""
    if forecast.behind is None:
        return None
    wait = forecast.starts_in_seconds
    start = "" if wait is None else f", starts in {format_duration(wait)}"
    return JobEvent(f"Waiting at place {forecast.queue_position} of the queue, behind {forecast.behind}{start}")


def _phase_durations(estimate: Estimate) -> str:
    return ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in estimate.phases.items() if seconds)
