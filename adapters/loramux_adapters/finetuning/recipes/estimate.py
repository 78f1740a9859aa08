"""Estimates the duration of a fine-tuning job before it starts, from its work and from how long earlier jobs took."""

from math import ceil
from typing import Literal

from pydantic import BaseModel, ConfigDict

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.recipes.recipe import Recipe

Phase = Literal["loading", "training", "publishing", "evaluating"]
PHASES: tuple[Phase, ...] = ("loading", "training", "publishing", "evaluating")
"""The phases of a running job in their order: the trainer loads the base and the data, and trains (with passes over the
validation file and checkpoints); the result is added to the engine, which checks its effect; it is evaluated."""

VALIDATION_PASSES, EARLY_STOPPING_PASSES = 3, 10
"""Passes over the validation file: one per exported checkpoint; more of them with early stopping."""
PREFERENCE_SAMPLES = 5
"""Prompts that are answered at the end of a job by DPO."""
_FORWARD_FLOPS, _BACKWARD_FLOPS = 2, 2
"""Per parameter and token; the backward pass of a frozen base has no weight gradients, and ends at the first layer
with an adapter."""

_MEASURED = "as fast as the last jobs on this base and machine"
_ASSUMED = "assumed, may be wrong by several times: no job was trained on this base and machine yet"


class JobWork(BaseModel):
    """The amount of work of a job. `questions` are the items of its evaluation; 0 without a validation file."""

    model_config = ConfigDict(frozen=True)

    steps: int
    tokens: int
    """Tokens of prompts and answers of all epochs."""
    flops: float
    """Floating-point operations of training, including the passes over the validation file."""
    recomputed_flops: float = 0.0
    """Those of the second forward pass of gradient checkpointing, not part of `flops`."""
    recomputes: bool = False
    """Whether gradient checkpointing is on: expected, then as the trainer says."""
    questions: int = 0

    @property
    def total_flops(self) -> float:
        """Floating-point operations of training as it is or will be done."""
        return self.flops + (self.recomputed_flops if self.recomputes else 0.0)


class PhaseSpeeds(BaseModel):
    """How long the phases of a job take, measured or assumed; see `measured`."""

    model_config = ConfigDict(frozen=True)

    loading_seconds: float
    flops_per_second: float
    publishing_seconds: float
    seconds_per_question: float
    measured: bool

    def expected_seconds(self, work: JobWork) -> dict[Phase, float]:
        """Return the expected duration of each phase."""
        return {
            "loading": self.loading_seconds,
            "training": work.total_flops / self.flops_per_second,
            "publishing": self.publishing_seconds,
            "evaluating": work.questions * self.seconds_per_question,
        }


CPU_SPEEDS = PhaseSpeeds(
    loading_seconds=20, flops_per_second=200e9, publishing_seconds=5, seconds_per_question=1.0, measured=False
)
"""Assumed before the first job: measured on a CPU of two cores with a base of 135 million parameters."""
GPU_SPEEDS = PhaseSpeeds(
    loading_seconds=30, flops_per_second=20e12, publishing_seconds=3, seconds_per_question=0.3, measured=False
)
"""Assumed before the first job on a GPU: a tenth of the peak of a recent one, since batches are small."""


class Estimate(BaseModel):
    """An estimate; `assumption` names the source of the speeds, `tokens` counts prompts and answers of all epochs."""

    model_config = ConfigDict(frozen=True)

    steps: int
    tokens: int
    seconds: float
    """Seconds of training, which a job is charged for."""
    tokens_per_second: float
    total_seconds: float
    """Seconds from the start of the job to its end; see `phases`."""
    phases: dict[Phase, float]
    """Seconds of each phase."""
    assumption: str


def job_work(
    report: DatasetReport,
    validation: DatasetReport | None,
    recipe: Recipe,
    base: BaseDescription,
    max_questions: int,
    *,
    recomputes: bool = False,
) -> JobWork:
    """Return the work of a job on these files, whose evaluation has at most `max_questions` items."""
    tokens = report.tokens * recipe.epochs
    share = trained_layer_share(recipe, base.spec.num_hidden_layers)
    forward, backward = _FORWARD_FLOPS * base.parameters, _BACKWARD_FLOPS * base.parameters * share
    passes = 2 if recipe.is_dpo else 1  # of the adapter, and of the reference
    validations = EARLY_STOPPING_PASSES if recipe.early_stopping_patience else VALIDATION_PASSES
    most = min(max_questions, PREFERENCE_SAMPLES) if recipe.is_dpo else max_questions
    validation_tokens = validations * validation.tokens if validation else 0
    return JobWork(
        steps=ceil(report.examples / recipe.batch_size) * recipe.epochs,
        tokens=tokens,
        flops=tokens * (passes * forward + backward) + validation_tokens * passes * forward,
        recomputed_flops=tokens * forward * share,
        recomputes=recomputes,
        questions=min(validation.examples, most) if validation else 0,
    )


def trained_layer_share(recipe: Recipe, layers: int) -> float:
    """Return the share of the layers that the backward pass goes through, 0..1."""
    return min(recipe.last_layers or layers, layers) / layers


def estimate_job(work: JobWork, speeds: PhaseSpeeds) -> Estimate:
    """Estimate the duration of a job from its start to its end."""
    phases = speeds.expected_seconds(work)
    return Estimate(
        steps=work.steps,
        tokens=work.tokens,
        seconds=phases["training"],
        tokens_per_second=work.tokens / phases["training"] if phases["training"] else 0.0,
        total_seconds=sum(phases.values()),
        phases=phases,
        assumption=_MEASURED if speeds.measured else _ASSUMED,
    )
