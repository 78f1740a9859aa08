"""Plans jobs: checks their files, chooses open hyperparameters, estimates time and cost, fills the trainer's run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.datasets.inspection import count_overlap
from loramux_adapters.finetuning.datasets.kinds import Kind
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.jobs.errors import FileNotFound, InvalidJob
from loramux_adapters.finetuning.jobs.forecast import JobForecast, forecast_jobs
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.plans import JobPlan, RequestedHyperparameters, TrainingCost, plan_events
from loramux_adapters.finetuning.jobs.recipe_planner import RecipePlanner
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.starting_point import StartingPoints, unknown_start
from loramux_adapters.finetuning.jobs.timings import JobTimings, learn_speeds
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.work_folders import WorkFolders
from loramux_adapters.finetuning.recipes.estimate import (
    CPU_SPEEDS,
    GPU_SPEEDS,
    PhaseSpeeds,
    estimate_job,
    job_work,
)
from loramux_adapters.finetuning.recipes.memory_demand import Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import Method, parse_recipe
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
        project: str | None = None,
    ) -> JobPlan:
        """Check the files and choose the open hyperparameters. Blocks: call it in a thread.

        The training goes on from the version `from_version`, if one is given. Files of other projects than `project`
        do not exist for it, unless it is None.

        Raises:
            InvalidJob: a file, a hyperparameter or a setting is wrong.
            StoreError: the files or the registry can't be read.
        """
        report = self._report(training_file, "training_file", requested.method, project)
        validation = (
            self._report(validation_file, "validation_file", requested.method, project) if validation_file else None
        )
        if validation is None and requested.lora.early_stopping_patience not in ("auto", 0):
            raise InvalidJob("lora.early_stopping_patience: expected a validation_file, by which to stop", "lora")
        shape = self._starting_points().shape(from_version) if from_version else None
        recipe, choice = self._recipes.choose(report, validation, requested, seed, shape)
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
        self._initial_adapter(job)
        return plan, [*_start_events(job), *plan_events(plan)]

    def find_start(self, model: str, *, is_visible: bool = True) -> str | None:
        """Return the version NAME@DIGEST that a job on `model` goes on from; None if that is the base.

        A model that is not visible to the client is refused like one that does not exist.

        Raises:
            InvalidJob: no job can start from it.
        """
        if not is_visible:
            raise unknown_start(model, self.base.name)
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

    @property
    def _recipes(self) -> RecipePlanner:
        return RecipePlanner(
            self.base,
            self.max_rank,
            self.find_devices,
            self.quantize,
            trains_on_gpu=self.trains_on_gpu,
            trains_on_unquantized=self.unquantized_base is not None,
            early_stopping_patience=self.early_stopping_patience,
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

    def _report(self, file: str, param: str, method: Method, project: str | None) -> DatasetReport:
        try:
            record = self.files.get(file, project)
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


def _start_events(job: JobRecord) -> list[JobEvent]:
    """Return what there is to say about where the training of a job starts."""
    if job.from_version is None:
        return []
    return [
        JobEvent(f"Training goes on from {job.from_version}"),
        JobEvent("An adapter forgets what its new examples do not show: mix old ones into the training file"),
    ]
