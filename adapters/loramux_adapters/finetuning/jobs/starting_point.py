"""What a job can start from: the base, or a version of an adapter, by any name that requests can use."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.finetuning.jobs.errors import InvalidJob
from loramux_adapters.finetuning.recipes.adapter_shape import AdapterShape, read_adapter_shape
from loramux_adapters.fsync import fsync_path
from loramux_adapters.intake.content import ADAPTER_FILES, TEMPLATE_FILE
from loramux_adapters.models import VersionId, VersionState
from loramux_adapters.registry.registry import VersionRecord
from loramux_adapters.resolver import AdapterResolver

_SHOWN_CHARACTERS = 200
_PARAM = "model"


@dataclass(frozen=True)
class StartingPoints:
    """The base and the adapters in `resolver`.

    Raises:
        InvalidJob: training can't start from what was asked for (every method).
    """

    resolver: AdapterResolver
    base: BaseDescription

    def find(self, model: str) -> str | None:
        """Return the version NAME@DIGEST that a model's name means; None for the base."""
        if self.resolver.is_base(model):
            return None
        name = self.resolver.own_name(model)
        version = str(self._only_target(name)) if "@" not in name else name
        return str(self._usable(version).id)

    def shape(self, version: str) -> AdapterShape:
        """Return the shape of a version's adapter. Blocks: it reads its config."""
        record = self._usable(version)
        try:
            return read_adapter_shape(self.resolver.path(record.id), self.base)
        except (InvalidAdapter, ValueError) as error:
            raise InvalidJob(f"model: {version}: {error}", _PARAM) from error
        except OSError as error:
            raise InvalidJob(f"model: the files of {version} can't be read", _PARAM) from error

    def copy(self, version: str, folder: Path) -> None:
        """Copy a version's files to a folder, so that the training can go on when the version is removed. Blocks."""
        if folder.exists():
            return
        source = self.resolver.path(self._usable(version).id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            copied = Path(unfinished, folder.name)
            copied.mkdir()
            for name in ADAPTER_FILES:
                shutil.copyfile(source / name, copied / name)
                fsync_path(copied / name)  # else a power loss could leave an empty copy, which would be taken as whole
            try:
                copied.rename(folder)
            except OSError:
                if not folder.exists():  # else another server, which plans the same job, was faster
                    raise

    def _only_target(self, name: str) -> VersionId:
        targets = self.resolver.targets(name)
        if len(targets) > 1:
            choices = " or ".join(str(target) for target in targets)
            raise InvalidJob(f"model: {name} is split between several versions: name one, {choices}", _PARAM)
        if not targets:
            raise self._unknown(name)
        return targets[0]

    def _usable(self, version: str) -> VersionRecord:
        record = self.resolver.version(version)
        if record is None:
            raise self._unknown(version)
        if record.state is not VersionState.READY:
            raise InvalidJob(f"model: {version} is {record.state.name.lower()}, not ready", _PARAM)
        if TEMPLATE_FILE in record.manifest.files:
            raise InvalidJob(
                f"model: {version} has a chat template of its own, and jobs are trained with the base's: train a new "
                "adapter on the base",
                _PARAM,
            )
        return record

    def _unknown(self, model: str) -> InvalidJob:
        return unknown_start(model, self.base.name)


def unknown_start(model: str, base: str) -> InvalidJob:
    """Return the error of a job on a model that does not exist."""
    shown = model[:_SHOWN_CHARACTERS]
    return InvalidJob(
        f"model: no base, adapter or alias is served as `{shown}`; expected the base `{base}`, or an adapter of GET "
        "/v1/models",
        _PARAM,
    )
