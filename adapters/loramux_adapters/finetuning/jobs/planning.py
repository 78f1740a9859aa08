"""What a job will do, decided from its files before it runs."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_adapters.finetuning.datasets.report import DatasetReport, overlap
from loramux_adapters.finetuning.jobs.errors import FileNotFound, InvalidJob
from loramux_adapters.finetuning.jobs.ids import is_id
from loramux_adapters.finetuning.jobs.models import JobRecord, Note
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.recipes.estimate import Estimate, estimate
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions, learning_rate, recipe_for
from loramux_adapters.finetuning.recipes.recipe import LARGEST_RATE, Recipe
from loramux_adapters.finetuning.trainer_process import TrainingRun
from loramux_adapters.models import BaseSpec

_LOG = "trainer.log"
Cost = Callable[[int, float], dict[str, float]]
"""What training so many tokens in so many seconds costs, in US dollars, in each way of counting."""


class Wanted(BaseModel):
    """The hyperparameters as they were asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hyperparameters: Hyperparameters = Hyperparameters()
    lora: LoraOptions = LoraOptions()


class Plan(BaseModel):
    """What is known before anything is trained."""

    model_config = ConfigDict(frozen=True)

    report: DatasetReport
    validation_report: DatasetReport | None
    overlap: int
    """Conversations of the validation file whose prompt the training file has too."""
    recipe: Recipe
    estimate: Estimate
    cost: dict[str, float]


@dataclass(frozen=True)
class Plans:
    """Makes plans for jobs on `base`, whose weights are in `base_folder`; their folders lie in `folder`."""

    files: TrainingFiles
    registry: JobRegistry
    base: BaseSpec
    base_folder: Path
    folder: Path
    max_rank: int
    cost: Cost
    device: str = "auto"
    on_gpu: bool = False
    """Whether the device will be a GPU: then adapters have all layers."""
    threads: int | None = None
    save_seconds: float = 30.0

    def plan(self, training_file: str, validation_file: str | None, wanted: Wanted, seed: int) -> Plan:
        """Look at the files and choose what was left open; raises InvalidJob, StoreError. Runs in a thread."""
        report = self._report(training_file, "training_file")
        held_out = self._report(validation_file, "validation_file") if validation_file else None
        recipe = self._recipe(report, held_out, wanted, seed)
        guess = estimate(report, recipe, self.base.parameters, self.registry.tokens_per_second(self.base.name))
        known = overlap(self.files.path(training_file), self.files.path(validation_file)) if validation_file else 0
        cost = self.cost(guess.tokens, guess.seconds)
        return Plan(report=report, validation_report=held_out, overlap=known, recipe=recipe, estimate=guess, cost=cost)

    def make(self, job: JobRecord) -> tuple[Recipe, list[Note]]:
        """Plan a job, and say what was found; raises InvalidJob, StoreError."""
        plan = self.plan(job.training_file, job.validation_file, Wanted.model_validate(job.wanted), job.seed)
        return plan.recipe, list(_notes(plan))

    def run(self, job: JobRecord) -> TrainingRun:
        """Return how the trainer is started for a job that was planned; raises OSError."""
        place = self.folder / job.id
        place.mkdir(parents=True, exist_ok=True)
        recipe = place / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(dict(job.recipe or {})))
        return TrainingRun(
            base=self.base_folder,
            base_name=self.base.name,
            data=self.files.path(job.training_file),
            recipe=recipe,
            output=place / "output",
            validation=self.files.path(job.validation_file) if job.validation_file else None,
            state=place / "state",
            save_seconds=self.save_seconds,
            device=self.device,
            threads=self.threads,
        )

    def log(self, job: JobRecord) -> Path:
        """Where the trainer's own words go."""
        return self.folder / job.id / _LOG

    def results(self, job: JobRecord) -> Path:
        """Where the job's results are written before they become files."""
        return self.folder / job.id / "results"

    def kept(self) -> list[str]:
        """Return the jobs that have a folder."""
        return [path.name for path in self.folder.glob("*") if is_id(path.name, "ftjob")]

    def clear(self, job: str) -> None:
        """Remove what an ended job has in its folder, but for the log: all else was copied to where it serves."""
        log = self.folder / job / _LOG
        for path in (self.folder / job).glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != log:
                path.unlink(missing_ok=True)

    def _report(self, file: str, param: str) -> DatasetReport:
        try:
            record = self.files.get(file)
        except FileNotFound as error:
            raise InvalidJob(f"No file has the id that {param} has.", param) from error
        if record.purpose != "fine-tune" or record.report is None:
            raise InvalidJob(f"The {param} is not one to train on: its purpose is {record.purpose}.", param)
        return DatasetReport.model_validate(record.report)

    def _recipe(self, report: DatasetReport, held_out: DatasetReport | None, wanted: Wanted, seed: int) -> Recipe:
        longest = max(report.longest, held_out.longest if held_out else 0, 8)
        try:
            recipe = recipe_for(
                wanted.hyperparameters,
                wanted.lora,
                report.examples,
                self.base,
                max_length=longest,
                seed=seed % 2**32,
                on_gpu=self.on_gpu,
            )
        except ValidationError as error:
            raise _unfit(error, self.base) from error
        except ValueError as error:
            raise InvalidJob(str(error), "lora") from error
        if recipe.rank > self.max_rank:
            raise InvalidJob(
                f"lora.rank is {recipe.rank}, but this server serves ranks up to {self.max_rank}: "
                "set LORAMUX_ENGINE__MAX_LORA_RANK higher.",
                "lora",
            )
        return recipe


def _unfit(error: ValidationError, base: BaseSpec) -> InvalidJob:
    """Say what is wrong with a recipe in the words that it was asked for in."""
    first = error.errors(include_input=False, include_url=False)[0]
    if "learning_rate" not in first["loc"]:
        return InvalidJob(f"lora: {first['msg'].removeprefix('Value error, ')}", "lora")
    rate = learning_rate(base)
    return InvalidJob(
        f"learning_rate_multiplier: at most {floor(LARGEST_RATE / rate)} on this base: the learning rate is {rate:g} "
        f"times it, and must be above 0 and at most {LARGEST_RATE:g}",
        "learning_rate_multiplier",
    )


def _notes(plan: Plan) -> list[Note]:
    report, guess = plan.report, plan.estimate
    notes = [
        Note(
            f"Training file: {report.examples:,} examples, {report.tokens:,} tokens "
            f"({report.trained_tokens:,} of them learned), the longest {report.longest:,}"
        ),
        *(Note(f"Training file: {warning}", "warn") for warning in report.warnings),
    ]
    if plan.overlap:
        notes.append(Note(f"{plan.overlap} validation prompts are in the training file too: trust no gain", "warn"))
    dollars = ", ".join(f"${cost:.4f} by {way.replace('_', ' ')}" for way, cost in plan.cost.items() if cost)
    notes.append(
        Note(
            f"Estimate: {guess.steps:,} steps, {guess.tokens:,} tokens, about {guess.seconds / 60:.1f} minutes "
            f"at {guess.tokens_per_second:,.0f} tokens/s ({guess.assumption})" + (f"; {dollars}" if dollars else "")
        )
    )
    notes.append(Note(f"Hyperparameters: {json.dumps(_short(plan.recipe.model_dump(mode='json')))}"))
    return notes


def _short(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if value is not None}
