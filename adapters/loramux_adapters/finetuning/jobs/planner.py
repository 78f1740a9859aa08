"""Plans jobs: checks their files, chooses open hyperparameters, estimates time and cost, fills the trainer's run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.datasets.inspection import count_overlap
from loramux_adapters.finetuning.datasets.kinds import Kind
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.errors import UnusableBase
from loramux_adapters.finetuning.jobs.errors import FileNotFound, InvalidJob
from loramux_adapters.finetuning.jobs.forecast import JobForecast, forecast_jobs
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.plans import JobPlan, RequestedHyperparameters, TrainingCost, plan_events
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.starting_point import StartingPoints
from loramux_adapters.finetuning.jobs.timings import JobTimings, learn_speeds
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.work_folders import WorkFolders
from loramux_adapters.finetuning.recipes.adapter_shape import AdapterShape
from loramux_adapters.finetuning.recipes.device_choice import DeviceChoice, expect_device
from loramux_adapters.finetuning.recipes.estimate import (
    CPU_SPEEDS,
    GPU_SPEEDS,
    PhaseSpeeds,
    estimate_job,
    job_work,
)
from loramux_adapters.finetuning.recipes.hyperparameters import choose_recipe, default_learning_rate
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import MAX_LEARNING_RATE, Method, Recipe, parse_recipe
from loramux_adapters.finetuning.training_run import TrainingRun

_JOBS_TO_LEARN_FROM = 5
_KINDS: dict[Method, Kind] = {"supervised": "chat", "dpo": "preference"}
_KIND_NAMES: dict[Kind, str] = {"chat": "conversations", "preference": "preference pairs"}


@dataclass(frozen=True)
class JobPlanner:
    """Plans jobs on `base`, whose weights are in `base_folder`."""

    files: TrainingFiles
    registry: JobRegistry
    base: BaseDescription
    base_folder: Path
    folders: WorkFolders
    max_rank: int
    cost: TrainingCost
    device: str = "auto"
    trains_on_gpu: bool = False
    """Whether the device is a GPU, if the training fits there: then an adapter has all layers by default."""
    find_devices: Callable[[], Sequence[TrainingDevice]] = tuple
    """Finds the devices that a job may train on, best first, with the memory that is free now; none if not known."""
    quantize: Quantize = "auto"
    """Whether a job may hold the base in 4 bits."""
    unquantized_base: Path | None = None
    """Folder of the base's unquantized weights, if those that are served are quantized."""
    served_dtype: str | None = None
    threads: int | None = None
    rendering: ChatRendering = field(default_factory=ChatRendering)
    """How the base's conversations are rendered when served."""
    save_seconds: float = 30.0
    evaluation_items: int = 0
    """Most items of the comparison with the base; 0: nothing is compared."""
    machine: str = ""
    """What the duration of jobs depends on, apart from their work: durations are learned per base and machine."""
    cpu_machine: str = ""
    """The same for jobs that train on the CPU because they do not fit on the GPU."""
    starting_points: StartingPoints | None = None
    """The adapters that jobs can go on from; None: jobs train new ones only."""
    early_stopping_patience: int | None = None
    """That of jobs that say nothing about it and have a validation file; see Recipe."""

    def plan(
        self,
        training_file: str,
        validation_file: str | None,
        requested: RequestedHyperparameters,
        seed: int,
        from_version: str | None = None,
    ) -> JobPlan:
        """Check the files and choose the open hyperparameters. Blocks: call it in a thread.

        The training goes on from the version `from_version`, if one is given.

        Raises:
            InvalidJob: a file, a hyperparameter or a setting is wrong.
            StoreError: the files or the registry can't be read.
        """
        report = self._report(training_file, "training_file", requested.method)
        validation = self._report(validation_file, "validation_file", requested.method) if validation_file else None
        if validation is None and requested.lora.early_stopping_patience not in ("auto", 0):
            raise InvalidJob("lora.early_stopping_patience: expected a validation_file, by which to stop", "lora")
        shape = self._starting_points().shape(from_version) if from_version else None
        recipe, choice = self._recipe_and_device(report, validation, requested, seed, shape)
        on_gpu = choice.device.is_gpu if choice else self.trains_on_gpu
        recomputes = choice is not None and choice.strategy.gradient_checkpointing
        work = job_work(report, validation, recipe, self.base, self.evaluation_items, recomputes=recomputes)
        guess = estimate_job(work, self.speeds(on_gpu=on_gpu))
        return JobPlan(
            report=report,
            validation_report=validation,
            overlap=self._overlap(training_file, validation_file),
            recipe=recipe,
            estimate=guess,
            work=work,
            on_gpu=on_gpu,
            cost=self.cost(guess.tokens, guess.seconds),
        )

    def speeds(self, *, on_gpu: bool | None = None) -> PhaseSpeeds:
        """Return the speeds of the last jobs on this base and machine; assumed ones before the first. Blocks.

        On the configured device, unless it is said whether that is a GPU.

        Raises:
            StoreError: the registry can't be read.
        """
        on_gpu = self.trains_on_gpu if on_gpu is None else on_gpu
        last = self.registry.newest_succeeded(self.base.name, _JOBS_TO_LEARN_FROM)
        return learn_speeds(last, self._machine(on_gpu=on_gpu), GPU_SPEEDS if on_gpu else CPU_SPEEDS)

    def forecasts(self, now: float) -> Mapping[str, JobForecast]:
        """Return the forecasts of all unfinished jobs on this base. Blocks.

        Raises:
            StoreError: the registry can't be read.
        """
        return forecast_jobs(self.registry.unfinished(self.base.name), self.speeds(), now)

    def plan_job(self, job: JobRecord) -> tuple[JobPlan, list[JobEvent]]:
        """Plan a job; returns the plan, and events that describe it.

        Raises:
            InvalidJob: a file, a hyperparameter or a setting is wrong.
            StoreError: the files or the registry can't be read.
        """
        requested = RequestedHyperparameters.model_validate(job.wanted)
        plan = self.plan(job.training_file, job.validation_file, requested, job.seed, job.from_version)
        origin = [JobEvent(f"Training goes on from {job.from_version}")] if job.from_version else []
        self._initial_adapter(job)
        return plan, [*origin, *plan_events(plan)]

    def find_start(self, model: str) -> str | None:
        """Return the version NAME@DIGEST that a job on `model` goes on from; None if that is the base.

        Raises:
            InvalidJob: no job can start from it.
        """
        return None if model == self.base.name else self._starting_points().find(model)

    def timings(self, plan: JobPlan) -> JobTimings:
        """Return the timings of a job that was planned and has not begun."""
        return JobTimings(work=plan.work, machine=self._machine(on_gpu=plan.on_gpu))

    def machine_of(self, device: str) -> str:
        """Return the machine of a device that trains, as in the timings of its jobs."""
        return self._machine(on_gpu=device.startswith("cuda"))

    def training_run(self, job: JobRecord) -> TrainingRun:
        """Return the training run of a job that was planned, and create its work folder.

        Raises:
            InvalidRecipe: the stored recipe is not valid in this release.
            OSError: the folder can't be created.
        """
        folder = self.folders.path(job)
        folder.mkdir(parents=True, exist_ok=True)
        return TrainingRun(
            base=self.base_folder,
            description=self.base,
            data=self.files.path(job.training_file),
            recipe=parse_recipe(dict(job.recipe or {}), "the job's recipe"),
            output=self.folders.output(job),
            validation=self.files.path(job.validation_file) if job.validation_file else None,
            initial_adapter=self._initial_adapter(job),
            rendering=self.rendering,
            state=folder / "state",
            save_seconds=self.save_seconds,
            device=self.device,
            quantize=self.quantize,
            unquantized_base=self.unquantized_base,
            served_dtype=self.served_dtype,
            threads=self.threads,
        )

    def _starting_points(self) -> StartingPoints:
        if self.starting_points is None:
            raise InvalidJob(f"model: only the base `{self.base.name}` can be fine-tuned.", "model")
        return self.starting_points

    def _initial_adapter(self, job: JobRecord) -> Path | None:
        """Return the folder of the adapter that a job goes on from, copied there when it is first needed.

        Raises:
            InvalidJob: it is no longer there.
            OSError: its files can't be copied.
        """
        if job.from_version is None:
            return None
        folder = self.folders.initial_adapter(job)
        self._starting_points().copy(job.from_version, folder)
        return folder

    def _report(self, file: str, param: str, method: Method) -> DatasetReport:
        try:
            record = self.files.get(file)
        except FileNotFound as error:
            raise InvalidJob(f"No file has the id given as {param}: upload one to /v1/files.", param) from error
        if record.purpose != "fine-tune" or record.report is None:
            raise InvalidJob(f"The {param} has the purpose {record.purpose}; expected fine-tune.", param)
        report = DatasetReport.model_validate(record.report)
        if report.kind != _KINDS[method]:
            fitting = next(name for name, kind in _KINDS.items() if kind == report.kind)
            raise InvalidJob(
                f"The {param} has {_KIND_NAMES[report.kind]}, and the method {method} needs "
                f"{_KIND_NAMES[_KINDS[method]]}: use the method {fitting}, or another file.",
                param,
            )
        return report

    def _overlap(self, training_file: str, validation_file: str | None) -> int:
        if validation_file is None:
            return 0
        return count_overlap(self.files.path(training_file), self.files.path(validation_file))

    def _machine(self, *, on_gpu: bool) -> str:
        return self.machine if on_gpu == self.trains_on_gpu else self.cpu_machine

    def _recipe_and_device(
        self,
        report: DatasetReport,
        validation: DatasetReport | None,
        requested: RequestedHyperparameters,
        seed: int,
        shape: AdapterShape | None,
    ) -> tuple[Recipe, DeviceChoice | None]:
        """Choose the recipe for the device on which the training fits now; None if that is not known."""
        longest = max(report.longest, validation.longest if validation else 0, 8)
        devices = self.find_devices()
        choose = partial(
            self._recipe,
            requested,
            report.examples,
            max_length=longest,
            seed=seed % 2**32,
            shape=shape,
            early_stopping_patience=self.early_stopping_patience if validation else None,
        )
        recipe = choose(on_gpu=self.trains_on_gpu)
        choice = self._device(recipe, longest, devices)
        if choice and choice.device.is_gpu != self.trains_on_gpu:
            recipe = choose(on_gpu=choice.device.is_gpu)
            choice = self._device(recipe, longest, [choice.device])
        return recipe, choice

    def _device(self, recipe: Recipe, longest: int, devices: Sequence[TrainingDevice]) -> DeviceChoice | None:
        """Choose the device, as if answers were as long as the longest example."""
        demand = MemoryDemand.expected(self.base, recipe, longest, longest)
        demand = demand.with_unquantized_base() if self.unquantized_base else demand
        try:
            return expect_device(demand, devices, self.quantize)
        except UnusableBase as error:
            raise InvalidJob(f"No job can be trained: {error}.") from error

    def _recipe(self, requested: RequestedHyperparameters, examples: int, **options: Any) -> Recipe:
        method: dict[str, Any] = {"method": requested.method, "beta": requested.beta}
        try:
            recipe = choose_recipe(requested.hyperparameters, requested.lora, examples, self.base, **method, **options)
        except ValidationError as error:
            raise _invalid_recipe(error, self.base, requested.method) from error
        except ValueError as error:
            raise InvalidJob(str(error), "lora") from error
        if recipe.rank > self.max_rank:
            raise InvalidJob(
                f"lora.rank is {recipe.rank}, but this server serves ranks up to {self.max_rank}: "
                "set LORAMUX_ENGINE__MAX_LORA_RANK higher.",
                "lora",
            )
        return recipe


def _invalid_recipe(error: ValidationError, base: BaseDescription, method: Method) -> InvalidJob:
    """Explain what is wrong with a recipe in terms of the request that it was chosen from."""
    first = error.errors(include_input=False, include_url=False)[0]
    if "learning_rate" not in first["loc"]:
        return InvalidJob(f"lora: {first['msg'].removeprefix('Value error, ')}", "lora")
    rate = default_learning_rate(base, method)
    return InvalidJob(
        f"learning_rate_multiplier: expected at most {floor(MAX_LEARNING_RATE / rate)} on this base: the learning rate "
        f"is {rate:g} times it, and must be above 0 and at most {MAX_LEARNING_RATE:g}",
        "learning_rate_multiplier",
    )
