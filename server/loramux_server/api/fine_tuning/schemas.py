"""Jobs, events and checkpoints in OpenAI's format, with additional fields."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loramux_adapters.finetuning.jobs.forecast import UNKNOWN, JobForecast
from loramux_adapters.finetuning.jobs.models import CheckpointRecord, EventRecord, JobRecord
from loramux_adapters.finetuning.jobs.plans import TrainingCost
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters

RecordedCosts = Callable[[Sequence[str]], Mapping[str, Mapping[str, float | None]]]
"""Returns the costs of jobs by cost mode, in dollars, None if unpriced, by the ids of those that have costs."""


@dataclass(frozen=True)
class JobSerializer:
    """Serializes jobs of `organization`, their events and checkpoints."""

    organization: str
    cost: TrainingCost
    """The cost at the present prices."""
    now: Callable[[], float] = time.time
    recorded_costs: RecordedCosts = lambda _jobs: {}
    """Returns the costs of jobs in the ledger, at the prices of their end or pause; may block on the database."""

    def jobs(self, records: Sequence[JobRecord], forecasts: Mapping[str, JobForecast]) -> list[dict[str, Any]]:
        """Serialize jobs; the costs of those that don't run are those of usage reports. Reads the database."""
        stopped = [record.id for record in records if record.state.has_ended or record.state is JobState.PAUSED]
        costs = self.recorded_costs(stopped) if stopped else {}
        return [self.job(record, forecasts.get(record.id, UNKNOWN), costs.get(record.id)) for record in records]

    def job(
        self, record: JobRecord, forecast: JobForecast = UNKNOWN, cost: Mapping[str, float | None] | None = None
    ) -> dict[str, Any]:
        """Serialize a job; `progress` and `loramux` are not in OpenAI's API. Without `cost`, it has present prices."""
        hyperparameters = _hyperparameters(record)
        succeeded = record.state is JobState.SUCCEEDED
        return {
            "id": record.id,
            "object": "fine_tuning.job",
            "created_at": int(record.created_at),
            "finished_at": None if record.finished_at is None else int(record.finished_at),
            "estimated_finish": self._unix_time_in(forecast.seconds_left),
            "error": record.error,
            "fine_tuned_model": record.name if succeeded else None,
            "hyperparameters": hyperparameters,
            "method": _method(record, hyperparameters),
            "model": record.from_version or record.base,
            "organization_id": self.organization,
            "result_files": list(record.result_files),
            "seed": record.seed,
            "status": record.state.value,
            "trained_tokens": record.progress.tokens if record.state.has_ended else None,
            "training_file": record.training_file,
            "validation_file": record.validation_file,
            "integrations": list(record.integrations or ()),
            "metadata": record.metadata,
            "suffix": record.suffix,
            "progress": record.progress.share,
            "loramux": self._details(record, forecast, cost),
        }

    def event(self, record: EventRecord) -> dict[str, Any]:
        """Serialize an event."""
        return {
            "id": record.id,
            "object": "fine_tuning.job.event",
            "created_at": int(record.at),
            "level": record.level,
            "message": record.message,
            "type": record.type,
            "data": record.data or {},
        }

    def checkpoint(self, record: CheckpointRecord) -> dict[str, Any]:
        """Serialize a checkpoint."""
        return {
            "id": record.id,
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(record.at),
            "fine_tuned_model_checkpoint": record.version,
            "fine_tuning_job_id": record.job,
            "metrics": record.metrics,
            "step_number": record.step,
        }

    def _unix_time_in(self, seconds: float | None) -> int | None:
        return None if seconds is None else int(self.now() + seconds)

    def _details(
        self, record: JobRecord, forecast: JobForecast, cost: Mapping[str, float | None] | None
    ) -> dict[str, Any]:
        progress = record.progress
        share = progress.trained_parameters / progress.base_parameters if progress.base_parameters else None
        return {
            "model": record.name,
            "alias": record.alias,
            "base": record.base,
            "from_version": record.from_version,
            "recipe": record.recipe,
            **progress.model_dump(exclude={"base_parameters", "estimated_at"}),
            "seconds_left": 0.0 if record.state is JobState.SUCCEEDED else forecast.seconds_left,
            "queue_position": forecast.queue_position,
            "behind": forecast.behind,
            "starts_in_seconds": forecast.starts_in_seconds,
            "phase": _phase(record),
            "trained_share": share,
            "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
            "cost": self.cost(progress.tokens, progress.seconds) if cost is None else cost,
        }


def _phase(record: JobRecord) -> str | None:
    """Return the phase of a running job."""
    current = record.timings.current
    return current.phase if current and record.state is JobState.RUNNING else None


def _method(record: JobRecord, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Return the method with its hyperparameters."""
    kind = record.wanted.get("method", "supervised")
    beta = (record.recipe or record.wanted).get("beta", "auto")
    own = {"beta": beta} if kind == "dpo" else {}
    return {"type": kind, kind: {"hyperparameters": hyperparameters | own}}


def _hyperparameters(record: JobRecord) -> dict[str, Any]:
    """Return the chosen hyperparameters, or before that the requested ones.

    They are not validated: present limits and the present base must not make an old job unreadable.
    """
    requested: dict[str, Any] = Hyperparameters().model_dump() | record.wanted.get("hyperparameters", {})
    if record.recipe is None:
        return requested
    multiplier = requested["learning_rate_multiplier"]
    return {
        "n_epochs": record.recipe["epochs"],
        "batch_size": record.recipe["batch_size"],
        "learning_rate_multiplier": 1.0 if multiplier == "auto" else multiplier,
    }
