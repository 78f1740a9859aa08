"""The folders of the adapters that the settings name: checked before the engine starts, and read again if changed."""

import os
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_adapters.errors import AdapterError, InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.sources.folder import FolderSource, FolderState
from loramux_server.errors import CannotStart
from loramux_server.settings import EXAMPLES_FOLDER, Settings

STATE_FILE = "configured-adapters.json"
SETTLED_SECONDS = 2.0
"""Age of a file's last change from which the next change gets another time, on every file system."""
_MAX_NAMED = 5


def configured_sources(settings: Settings) -> dict[str, FolderSource]:
    """Return the adapters that the settings name, by name."""
    roots = (*settings.allowed_roots, EXAMPLES_FOLDER)
    return {name: FolderSource(Path(folder), roots) for name, folder in settings.adapters.items()}


def check_configured(settings: Settings) -> None:
    """Check that each adapter's folder can be read and has a config.

    Raises:
        CannotStart: one can't be; the message has its name and path.
    """
    problems = {name: _folder_problem(source) for name, source in configured_sources(settings).items()}
    found = [f"the adapter {name!r}: {problem}" for name, problem in problems.items() if problem]
    if found:
        more = f"; and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
        raise CannotStart("; ".join(found[:_MAX_NAMED]) + f"{more} (setting LORAMUX_ADAPTERS)")


def _folder_problem(source: FolderSource) -> str | None:
    if not source.path.is_dir():
        return f"the folder {source.path} does not exist"
    if not os.access(source.path, os.R_OK | os.X_OK):
        return f"the folder {source.path} can't be read by this user"
    try:
        source.state()
    except InvalidAdapter as error:  # weights that are missing or can't be used: it is reported and skipped later
        return f"{source.path} is not an adapter: {error.message}" if error.where == CONFIG_FILE else None
    except AdapterError:
        return f"{source.path} is outside the allowed folders (LORAMUX_ALLOWED_ROOTS)"
    except OSError as error:
        return f"{source.path} can't be read: {error.strerror}"
    return None


class _Registered(BaseModel):
    """A folder whose content was registered as a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    state: str
    """The SHA-256 of the folder's state."""


class _StateFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rules: str = ""
    """The SHA-256 of the rules by which the folders were accepted."""
    folders: dict[str, _Registered] = {}


class ConfiguredFolders:
    """Remembers which versions the folders have become, in a file: else each start would copy and hash all of them.

    A folder counts as unchanged while size, times, inode and device of all its entries stay the same. One that has just
    changed is not remembered: its next change could have the same time.
    """

    def __init__(self, data_dir: Path) -> None:
        """Read the file; a missing or invalid one is as an empty one."""
        self._path = data_dir / STATE_FILE
        try:
            self._stored = _StateFile.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            self._stored = _StateFile()

    def apply_rules(self, *rules: object) -> None:
        """Forget all folders unless they were accepted by rules with the same representation."""
        digest = _sha256(rules)
        if digest != self._stored.rules:
            self._stored = _StateFile(rules=digest)

    def version(self, name: str, state: FolderState | None) -> str | None:
        """Return the version of the adapter's folder if it was in this state; None if it may have changed."""
        known = self._stored.folders.get(name)
        return known.version if known and state is not None and known.state == _sha256(sorted(state.items())) else None

    def remember(self, name: str, state: FolderState | None, version: str) -> None:
        """Remember that a folder in this state, which was read before its files, is this version."""
        self._stored.folders.pop(name, None)
        if state is not None and _is_settled(state):
            self._stored.folders[name] = _Registered(version=version, state=_sha256(sorted(state.items())))

    def write(self) -> None:
        """Write the file, in one step.

        Raises:
            OSError: the disk failed.
        """
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, prefix=f".{STATE_FILE}-", delete=False) as file:
            file.write(self._stored.model_dump_json())
        Path(file.name).replace(self._path)


def folder_state(source: FolderSource) -> FolderState | None:
    """Return the state of a folder; None if it can't be read."""
    try:
        return source.state()
    except (AdapterError, OSError):
        return None


def _is_settled(state: FolderState) -> bool:
    newest = max((max(modified, changed) for _, modified, changed, _, _ in state.values()), default=0)
    return newest < time.time_ns() - SETTLED_SECONDS * 1e9


def _sha256(value: object) -> str:
    return sha256(repr(value).encode()).hexdigest()
