"""Plans jobs: checks their files, chooses open hyperparameters, estimates time and cost, fills the trainer's run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from pathlib import Path

from pydantic import ValidationError

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.datasets.inspection import count_overlap
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.errors import UnusableBase
from loramux_adapters.finetuning.jobs.errors import FileNotFound, InvalidJob
from loramux_adapters.finetuning.jobs.forecast import JobForecast, forecast_jobs
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.plans import JobPlan, RequestedHyperparameters, TrainingCost, plan_events
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.timings import JobTimings, learn_speeds
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.work_folders import WorkFolders
from loramux_adapters.finetuning.recipes.device_choice import DeviceChoice, expect_device
from loramux_adapters.finetuning.recipes.estimate import (
    CPU_SPEEDS,
    GPU_SPEEDS,
    PhaseSpeeds,
    estimate_job,
    job_work,
)
from loramux_adapters.finetuning.recipes.hyperparameters import (
    choose_recipe,
    default_learning_rate,
)
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import MAX_LEARNING_RATE, Recipe, parse_recipe
from loramux_adapters.finetuning.training_run import TrainingRun

_JOBS_TO_LEARN_FROM = 5


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

    def plan(
        self, training_file: str, validation_file: str | None, requested: RequestedHyperparameters, seed: int
    ) -> JobPlan:
        """Check the files and choose the open hyperparameters. Blocks: call it in a thread.

        Raises:
            InvalidJob: a file, a hyperparameter or a setting is wrong.
            StoreError: the files or the registry can't be read.
        """
        report = self._report(training_file, "training_file")
        validation = self._report(validation_file, "validation_file") if validation_file else None
        recipe, choice = self._recipe_and_device(report, validation, requested, seed)
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
        plan = self.plan(job.training_file, job.validation_file, requested, job.seed)
        return plan, plan_events(plan)

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
            rendering=self.rendering,
            state=folder / "state",
            save_seconds=self.save_seconds,
            device=self.device,
            quantize=self.quantize,
            unquantized_base=self.unquantized_base,
            served_dtype=self.served_dtype,
            threads=self.threads,
        )

    def _report(self, file: str, param: str) -> DatasetReport:
        try:
            record = self.files.get(file)
        except FileNotFound as error:
            raise InvalidJob(f"No file has the id given as {param}: upload one to /v1/files.", param) from error
        if record.purpose != "fine-tune" or record.report is None:
            raise InvalidJob(f"The {param} has the purpose {record.purpose}; expected fine-tune.", param)
        return DatasetReport.model_validate(record.report)

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
    ) -> tuple[Recipe, DeviceChoice | None]:
        """Choose the recipe for the device on which the training fits now; None if that is not known."""
        longest = max(report.longest, validation.longest if validation else 0, 8)
        devices = self.find_devices()
        recipe = self._recipe(report, longest, requested, seed, on_gpu=self.trains_on_gpu)
        choice = self._device(recipe, longest, devices)
        if choice and choice.device.is_gpu != self.trains_on_gpu:
            recipe = self._recipe(report, longest, requested, seed, on_gpu=choice.device.is_gpu)
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

    def _recipe(
        self, report: DatasetReport, longest: int, requested: RequestedHyperparameters, seed: int, *, on_gpu: bool
    ) -> Recipe:
        try:
            recipe = choose_recipe(
                requested.hyperparameters,
                requested.lora,
                report.examples,
                self.base,
                max_length=longest,
                seed=seed % 2**32,
                on_gpu=on_gpu,
            )
        except ValidationError as error:
            raise _invalid_recipe(error, self.base) from error
        except ValueError as error:
            raise InvalidJob(str(error), "lora") from error
        if recipe.rank > self.max_rank:
            raise InvalidJob(
                f"lora.rank is {recipe.rank}, but this server serves ranks up to {self.max_rank}: "
                "set LORAMUX_ENGINE__MAX_LORA_RANK higher.",
                "lora",
            )
        return recipe


def _invalid_recipe(error: ValidationError, base: BaseDescription) -> InvalidJob:
    """Explain what is wrong with a recipe in terms of the request that it was chosen from."""
    first = error.errors(include_input=False, include_url=False)[0]
    if "learning_rate" not in first["loc"]:
        return InvalidJob(f"lora: {first['msg'].removeprefix('Value error, ')}", "lora")
    rate = default_learning_rate(base)
    return InvalidJob(
        f"learning_rate_multiplier: expected at most {floor(MAX_LEARNING_RATE / rate)} on this base: the learning rate "
        f"is {rate:g} times it, and must be above 0 and at most {MAX_LEARNING_RATE:g}",
        "learning_rate_multiplier",
    )
