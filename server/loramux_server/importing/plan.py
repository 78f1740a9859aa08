"""The plan of an import: the job here of each job of the provider, or why there is none; what does not carry over."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from loramux_server.importing.conversion import in_openai_format
from loramux_server.importing.errors import ImportingError, RefusedError
from loramux_server.importing.folder import ImportFolder, Manifest, StoredFile
from loramux_server.importing.held_out import hold_out, split_lines
from loramux_server.importing.source_job import MAX_SEED, SUCCEEDED, SourceJob
from loramux_server.importing.target import TargetServer

_METHODS = ("supervised", "dpo")
Epochs = Literal["same", "auto"]


@dataclass(frozen=True)
class ImportOptions:
    """What the user chose."""

    epochs: Epochs = "same"
    hold_out: float = 0.1
    """Share of the examples to hold out of jobs that have no validation file; 0 for none."""
    items: int = 100
    """At most so many held-out items are asked of each old model."""
    only: Sequence[str] = ()
    """Ids, model names or suffixes; all jobs if empty."""
    deployments: Mapping[str, str] = field(default_factory=dict)
    """Names by which the provider answers for models, by the models' names, where it does not answer by these."""
    aliases: bool = True
    compare: bool = True
    retry: bool = False

    def of_training(self) -> dict[str, Any]:
        """Those that must be the same in every run, because what is trained depends on them."""
        return {"epochs": self.epochs, "hold_out": self.hold_out}

    def selects(self, job: SourceJob) -> bool:
        """Whether the job is one of those to import."""
        return not self.only or bool({job.id, job.fine_tuned_model, job.suffix} & set(self.only))


@dataclass(frozen=True)
class PlannedJob:
    """A job of the provider, and what becomes of it: `body` is the request of the job here, None if there is none."""

    source: SourceJob
    key: str
    """The job's name in the metadata of the job here."""
    body: Mapping[str, Any] | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    """Why the job is not imported."""
    notes: Sequence[str] = ()
    """What does not carry over, and why."""
    training: StoredFile | None = None
    held_out: StoredFile | None = None
    parent: str | None = None
    """The id of the job whose result this job went on from."""
    answers_as: str | None = None
    """The name by which the provider answers for the old model; None if it is unknown."""

    @property
    def is_failure(self) -> bool:
        """Whether the job should have been imported, but can't be."""
        return self.problem is not None and self.source.status == SUCCEEDED and self.source.method_type in _METHODS


def make_plan(
    manifest: Manifest, folder: ImportFolder, target: TargetServer, options: ImportOptions
) -> list[PlannedJob]:
    """Check every selected job's files on the server, and plan it there; oldest first.

    Raises:
        ProviderError: the server can't be reached.
    """
    base = target.base_model()
    by_model = {job.fine_tuned_model: job.id for job in manifest.jobs if job.fine_tuned_model}
    planner = _Planner(manifest, folder, target, options, base, by_model)
    jobs = sorted(manifest.jobs, key=lambda job: job.created_at)
    return [planner.plan(job) for job in jobs if options.selects(job)]


def unknown_deployment(job: SourceJob) -> str:
    """Why a model can't be asked whose provider answers by other names, and what helps."""
    return f"name the deployment that answers for it: --deployment {job.fine_tuned_model}=DEPLOYMENT"


def reason_not_to_import(job: SourceJob) -> str | None:
    """Why a job is not imported, whatever its files are."""
    if job.method_type == "reinforcement":
        return "reinforcement: its grader, not its data, made the model; train the wanted answers as supervised"
    if job.method_type not in _METHODS:
        return f"the method {job.method_type!r} is not supported; expected supervised or dpo"
    if job.status in {"failed", "cancelled"}:
        return f"it {'failed' if job.status == 'failed' else 'was cancelled'} at the provider"
    if job.status != SUCCEEDED:
        return f"it is {job.status} at the provider: import it again when it has ended"
    return None if job.training_file else "the provider names no training file"


@dataclass(frozen=True)
class _Planner:
    manifest: Manifest
    folder: ImportFolder
    target: TargetServer
    options: ImportOptions
    base: str
    by_model: Mapping[str, str]

    def plan(self, job: SourceJob) -> PlannedJob:
        key = f"{self.manifest.provider}:{job.id}"
        if reason := reason_not_to_import(job):
            return PlannedJob(job, key, problem=reason)
        try:
            return self._plan_files(job, key)
        except RefusedError as error:
            return PlannedJob(job, key, problem=f"refused: {error}", notes=self._notes(job))
        except ImportingError as error:
            return PlannedJob(job, key, problem=str(error), notes=self._notes(job))

    def _plan_files(self, job: SourceJob, key: str) -> PlannedJob:
        training, held_out, notes = self._files(job)
        parent = self.by_model.get(job.model)
        body = _job_body(job, self.base, self.options)
        body["training_file"] = self.target.upload(self.folder.path(training.sha256), training)
        if held_out:
            body["validation_file"] = self.target.upload(self.folder.path(held_out.sha256), held_out)
        estimate = self.target.estimate({**body, "metadata": None})
        answers_as = self.manifest.name_to_ask(job)
        if held_out and self.options.compare and job.fine_tuned_model and not answers_as:
            notes.append(f"no comparison: {unknown_deployment(job)}")
        notes = [*self._notes(job), *notes]
        return PlannedJob(job, key, body, estimate, None, notes, training, held_out, parent, answers_as)

    def _files(self, job: SourceJob) -> tuple[StoredFile, StoredFile | None, list[str]]:
        """The files to train and to compare on, and notes."""
        parts, formats = zip(*(self._file(file_id) for file_id in job.training_files), strict=True)
        converted = [f"converted from {name}" for name in dict.fromkeys(formats) if name]
        training = parts[0]
        lines = [line for part in parts for line in split_lines(self.folder.path(part.sha256).read_bytes())]
        if len(parts) > 1:
            training = self.folder.add_lines(lines, training.filename)
        if job.validation_file:
            try:
                return training, self._file(job.validation_file)[0], converted
            except ImportingError as error:
                return training, None, [*converted, f"no comparison: {error}"]
        split = hold_out(lines, self.options.hold_out)
        if not split.held_out:
            return training, None, [*converted, "no comparison: too few examples to hold some out"]
        stem = training.filename.rsplit(".", 1)[0]
        return (
            self.folder.add_lines(split.training, f"{stem}-train.jsonl"),
            self.folder.add_lines(split.held_out, f"{stem}-held-out.jsonl"),
            [
                *converted,
                f"{len(split.held_out)} of {len(lines)} examples are held out to compare on (the old model knows them)",
            ],
        )

    def _file(self, file_id: str) -> tuple[StoredFile, str | None]:
        """A file in OpenAI's format, and the format that it had before."""
        return in_openai_format(self.folder, self.folder.find(self.manifest, file_id))

    def _notes(self, job: SourceJob) -> list[str]:
        """What of a job does not carry over, and why."""
        chosen, notes = job.chosen, []
        if job.model in self.by_model:
            notes.append(f"goes on from the successor of {job.model}")
        elif job.model.startswith("ft:"):
            notes.append(f"went on from {job.model}, which is not imported: trained from {self.base}")
        if {chosen.batch_size, chosen.learning_rate_multiplier} != {"auto"}:
            notes.append("batch size and learning rate: they fitted another base, and are chosen for this one")
        if self.options.epochs == "auto" and chosen.n_epochs != "auto":
            notes.append(f"{chosen.n_epochs} epochs: chosen for this base (--epochs auto)")
        if job.integrations:
            notes.append("integrations: set up anew, with a key of this server")
        if job.checkpoints:
            notes.append(f"{job.checkpoints} checkpoints: the new job makes its own")
        if job.seed is not None and not 0 <= job.seed <= MAX_SEED:
            notes.append(f"seed {job.seed}: out of range, taken modulo {MAX_SEED + 1}")
        return notes


def _job_body(job: SourceJob, base: str, options: ImportOptions) -> dict[str, Any]:
    """The request of the job here, without its files."""
    chosen, kind = job.chosen, job.method_type
    hyperparameters: dict[str, Any] = {}
    if options.epochs == "same" and isinstance(chosen.n_epochs, int):
        hyperparameters["n_epochs"] = chosen.n_epochs
    if kind == "dpo" and not isinstance(chosen.beta, str):
        hyperparameters["beta"] = chosen.beta
    body: dict[str, Any] = {"model": base, "method": {"type": kind, kind: {"hyperparameters": hyperparameters}}}
    if job.suffix:
        body["suffix"] = job.suffix
    if job.seed is not None:
        body["seed"] = job.seed % (MAX_SEED + 1)
    metadata = {key: value for key, value in job.metadata.items() if isinstance(value, str)}
    return body | ({"metadata": metadata} if metadata else {})


def files_wanted(manifest: Manifest, options: ImportOptions) -> list[SourceJob]:
    """The jobs whose files are needed."""
    return [job for job in manifest.jobs if options.selects(job) and reason_not_to_import(job) is None]


def importable(plan: Sequence[PlannedJob]) -> list[PlannedJob]:
    """The jobs of the plan that become jobs here."""
    return [planned for planned in plan if planned.body is not None]


def ids(plan: Sequence[PlannedJob]) -> Set[str]:
    """The provider's ids of the planned jobs."""
    return {planned.source.id for planned in plan}
