"""The folder of an import: the jobs and files of the provider, kept for good, so that the rest needs no provider.

`manifest.json` has the jobs and, by their ids at the provider, the files; each is in `files/SHA256.jsonl`. The manifest
may also be written by hand: then a job names its files by their paths in the folder. Every file is complete or absent.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_adapters.file_lock import FileLock
from loramux_adapters.fsync import fsync_path
from loramux_server.importing.errors import ImportingError
from loramux_server.importing.providers import PROVIDERS
from loramux_server.importing.source_job import SourceJob, Text

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


class StoredFile(BaseModel):
    """A file of the provider; `filename` is the user's own name of it."""

    model_config = ConfigDict(frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int
    filename: str


class UnreadableJob(BaseModel):
    """A job that can't be read, and why."""

    model_config = ConfigDict(frozen=True)

    id: str
    reason: str


class Manifest(BaseModel):
    """All that is known of the provider's jobs. `unlisted` are fine-tuned models whose job is gone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    provider: Annotated[str, Field(pattern=r"^[a-z]{1,32}$")] = "folder"
    base_url: str | None = None
    jobs: tuple[SourceJob, ...] = ()
    unreadable: tuple[UnreadableJob, ...] = ()
    unlisted: tuple[str, ...] = ()
    answering: tuple[str, ...] | None = None
    """Fine-tuned models that the provider still listed; None if it was not asked."""
    files: dict[str, StoredFile] = {}
    gone: dict[str, str] = {}
    """Files that the provider has no more, and its words."""
    deployments: dict[Text, Text] = {}
    """Names by which the provider answers for models, by the models' names, where it does not answer by these."""
    options: dict[str, Any] = {}
    """Options of the first run that trained; another run must have the same."""

    def name_to_ask(self, job: SourceJob) -> str | None:
        """The name by which the provider answers for a job's model; None if it is unknown."""
        provider = PROVIDERS.get(self.provider)
        own = job.fine_tuned_model if provider is None or provider.answers_by_model else None
        return self.deployments.get(job.fine_tuned_model or "", own)

    def with_deployments(self, deployments: Mapping[str, str]) -> "Manifest":
        """Return the manifest with more deployments.

        Raises:
            ImportingError: no job made a model that has one, or two models have the same.
        """
        models = {job.fine_tuned_model for job in self.jobs}
        if unknown := [model for model in deployments if model not in models]:
            known = ", ".join(sorted(filter(None, models))) or "none"
            raise ImportingError(f"--deployment: no job made a model {unknown[0]!r}; expected one of: {known}")
        found = {**self.deployments, **deployments}
        if len(set(found.values())) < len(found):
            raise ImportingError("--deployment: two models have the same deployment; expected one for each")
        return self.model_copy(update={"deployments": found})


class ImportFolder:
    """The folder of an import; its files are written by the holder of `lock` only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, which is created if need be.

        Raises:
            ImportingError: another import holds it, or it can't be written.
        """
        try:
            for folder in (self.root, self.root / "files", self.root / "partial"):
                folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "lock")
            if not lock.acquire(blocking=False):
                raise ImportingError(f"another import uses {self.root}: wait for it, or choose another --folder")
        except OSError as error:
            raise ImportingError(f"{self.root} can't be written: {error.strerror}") from error
        with lock:
            yield

    def read(self) -> Manifest:
        """Return the manifest; an empty one if there is none.

        Raises:
            ImportingError: it can't be read, or two jobs have the same id.
        """
        path = self.root / MANIFEST
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return Manifest()
        except (OSError, ValueError, RecursionError) as error:
            raise ImportingError(f"{path} can't be read: {error}") from error
        try:
            manifest = Manifest.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ImportingError(f"{path}: {where}: {first['msg']}") from error
        ids = [job.id for job in manifest.jobs]
        if twice := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            raise ImportingError(f"{path}: two jobs have the id {twice[0]!r}; expected an `id` of its own for each")
        return manifest

    def write(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        document = manifest.model_dump(mode="json", exclude={"jobs"}, exclude_none=True)
        document["jobs"] = [job.as_manifest_entry() for job in manifest.jobs]
        self.write_text(MANIFEST, json.dumps(document, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a file in the folder; after a crash it has the old or the new text."""
        write_durably(self.root / name, text.encode())

    def partial(self, file_id: str) -> Path:
        """The path of an incomplete download."""
        return self.root / "partial" / hashlib.sha256(file_id.encode()).hexdigest()

    def add(self, path: Path, filename: str) -> StoredFile:
        """Move a complete file into the store."""
        digest, size = _hash(path)
        fsync_path(path)
        path.replace(self.path(digest))
        fsync_path(self.root / "files")
        return StoredFile(sha256=digest, bytes=size, filename=filename)

    def add_lines(self, lines: list[bytes], filename: str) -> StoredFile:
        """Store a file that was made from others; equal lines give an equal file."""
        content = b"\n".join(lines) + b"\n"
        digest = hashlib.sha256(content).hexdigest()
        if not self.path(digest).exists():
            write_durably(self.path(digest), content)
        return StoredFile(sha256=digest, bytes=len(content), filename=filename)

    def path(self, digest: str) -> Path:
        """The path of a stored file."""
        return self.root / "files" / f"{digest}.jsonl"

    def find(self, manifest: Manifest, file_id: str) -> StoredFile:
        """Return a job's file: a downloaded one, or one that a hand-written manifest names by its path.

        Raises:
            ImportingError: there is none.
        """
        if stored := manifest.files.get(file_id):
            return stored
        if reason := manifest.gone.get(file_id):
            raise ImportingError(f"the file {file_id} is gone: {reason}")
        path = (self.root / file_id).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise ImportingError(f"the file {file_id!r} is not in {self.root}")
        copy = self.partial(file_id)
        copy.write_bytes(path.read_bytes())
        return self.add(copy, path.name)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file; after a crash it has the old or the new content."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    fsync_path(path.parent)


def _hash(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def merge_jobs(old: Manifest, jobs: Mapping[str, SourceJob]) -> tuple[SourceJob, ...]:
    """The jobs of the manifest with newer ones in their place; jobs that the provider no longer lists stay."""
    return tuple(({job.id: job for job in old.jobs} | dict(jobs)).values())
