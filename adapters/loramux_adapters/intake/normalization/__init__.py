"""Normalisation of adapter files: from the forms that tools write to one, which is PEFT's.

    adapter_config.json          PEFT's config
    adapter_model.safetensors    all weights, named as PEFT names them on this base

What leaves no doubt is changed, and noted; what is not understood stays as it is, so that validation says what is
wrong. Files that are in this form already keep their bytes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter, printable
from loramux_adapters.intake.content import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, open_regular
from loramux_adapters.intake.normalization import mlx
from loramux_adapters.intake.normalization.base_copies import BaseCopies, fully_trained
from loramux_adapters.intake.normalization.names import TensorNames, renamed
from loramux_adapters.intake.normalization.tensor_files import (
    StoredTensor,
    check_index,
    read_stored,
    weights_files,
    write_tensors,
)
from loramux_adapters.intake.normalization.trained_model import trained_names, trained_part
from loramux_adapters.intake.validation.canonical import canonical_config
from loramux_adapters.intake.validation.config import read_values
from loramux_adapters.intake.validation.limits import max_header_bytes
from loramux_adapters.intake.validation.tensors import check_not_empty

Config = dict[str, Any]
_TRAINING_ONLY = re.compile(r"\.lora_velora_embed(\.[^.]+)?$")
"""Tensors of VeLoRA, which compresses activations for its backward pass."""


def normalize(folder: Path, base: BaseDescription, base_folder: Path | None) -> list[str]:
    """Bring the adapter in `folder` into the form of PEFT on `base`, and return sentences about what was changed.

    Args:
        folder: the files as they came; only the caller may be able to write to it.
        base: the base that the adapter is for.
        base_folder: the folder with the base's own weights, with which saved copies are compared.

    Memory use stays within tens of MiB for any files, and files are at most written once.

    Raises:
        InvalidAdapter: the files are malformed, ambiguous, or in a form that can't be converted.
        OSError: the disk failed.
    """
    with open_regular(folder / CONFIG_FILE) as file:
        original = read_values(file)
    files, index = weights_files(folder)
    stored = read_stored(files, max_header_bytes(base))
    if index is not None:
        check_index(index, stored)
    normalization = _Normalization(base, base_folder, original, stored)
    config, tensors = normalization.result()
    config, notes = canonical_config(config, *normalization.trained_model())
    if json.dumps(config) != json.dumps(original):  # 8.0 == 8, but vLLM tells them apart
        (folder / CONFIG_FILE).write_text(json.dumps(config, sort_keys=True, ensure_ascii=False))
    if files != [folder / WEIGHTS_FILE] or tensors != stored:
        _replace(folder, files, tensors)
    joined = [f"The weights were in {len(files)} files, and were joined into one."] if len(files) > 1 else []
    return [*joined, *normalization.notes(), *notes]


def declared_config(folder: Path) -> Config:
    """Return the config in `folder` with PEFT's keys, as far as it can be known without the weights.

    Raises:
        InvalidAdapter: it is missing or malformed.
    """
    with open_regular(folder / CONFIG_FILE) as file:
        values = read_values(file)
    # Whether these modules were trained, or are copies, only the weights say.
    return mlx.peft_config(values) if mlx.is_mlx(values) else {**values, "modules_to_save": None}


class _Normalization:
    """The normal form of one adapter, and how it differs from its files."""

    def __init__(
        self, base: BaseDescription, base_folder: Path | None, config: Config, stored: Mapping[str, StoredTensor]
    ) -> None:
        self._base, self._config = base, config
        self._training_only = {name for name in stored if _TRAINING_ONLY.search(name)}
        self._stored = {name: tensor for name, tensor in stored.items() if name not in self._training_only}
        self._names = TensorNames(base)
        self._copies = BaseCopies(base, self._names, base_folder)
        self._is_mlx = mlx.is_mlx(config)
        self._declared = mlx.peft_config(config) if self._is_mlx else config
        for name, tensor in self._stored.items():
            check_not_empty(name, tensor.info)
        self._resolved = renamed(self._stored, self._names)
        self._dropped = {name: original for name in self._stored if (original := self._copy_of(name))}

    def result(self) -> tuple[Config, dict[str, StoredTensor]]:
        """Return config and tensors in their normal form."""
        return self._normal_config(), dict(self._normal_tensors())

    def trained_model(self) -> tuple[BaseDescription, dict[str, str]]:
        """Return the part of the base that the trained model had, and its own names of modules, where they differ."""
        if self._lists_targets:
            return self._base, {}
        trained_as = {tensor.path: tensor.trained_as for tensor in self._resolved.values() if tensor}
        names = trained_names(self._base, trained_as)
        return trained_part(self._base, names, trained_as), names

    def notes(self) -> Iterator[str]:
        """Yield sentences about the differences."""
        if self._is_mlx:
            yield "The adapter was converted from the format of mlx-lm."
        changes = [(old, new) for old, new in self._new_names.items() if old != new]
        if changes and not self._is_mlx:
            old, new = map(printable, changes[0])
            yield f"{len(changes)} tensors were renamed as PEFT names them on this base, such as {old} to {new}."
        if self._dropped:
            names = ", ".join(printable(name) for name in sorted(self._dropped)[:5])
            yield f"Left out, because they are copies of the base's own weights: {names}."

        if self._training_only:
            names = ", ".join(printable(name) for name in sorted(self._training_only)[:5])
            yield f"Left out, because they only matter during training: {names}."

    @cached_property
    def _new_names(self) -> dict[str, str]:
        return {
            name: self._names.peft_name(tensor) if tensor else name
            for name, tensor in self._resolved.items()
            if name not in self._dropped
        }

    def _normal_tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        for name, new in self._new_names.items():
            tensor, found = self._stored[name], self._resolved[name]
            if found and found.is_mlx:
                if not self._is_mlx:
                    raise InvalidAdapter("the tensors are named as by mlx-lm, but the config has no lora_parameters",
                                         where=name)  # fmt: skip
                tensor = mlx.transposed(name, tensor, found.matrix, self._base.modules[found.path], self._declared["r"])
            yield new, tensor

    def _normal_config(self) -> Config:
        config = dict(self._declared)
        if self._lists_targets:
            config["target_modules"] = self._paths
        if "r" in config and "lora_alpha" in config:
            config.setdefault("peft_type", "LORA")
        if self._dropped and self._saves_only_copies(config.get("modules_to_save")):
            config["modules_to_save"] = None
        return config

    @cached_property
    def _paths(self) -> list[str]:
        return sorted({tensor.path for tensor in self._resolved.values() if tensor})

    @cached_property
    def _lists_targets(self) -> bool:
        """Whether the tensors say which modules are targets, because the config does not."""
        # PEFT's all-linear leaves out the output embedding, which Tinker trains.
        trains_head = self._config.get("target_modules") == "all-linear" and self._names.head in self._paths
        is_silent = self._config.keys().isdisjoint({"target_modules", "target_parameters"})
        return bool(self._paths) and (is_silent or trains_head)

    def _saves_only_copies(self, modules: object) -> bool:
        """Whether each of `modules_to_save` is a copy that was left out."""
        owners = [name.rpartition(".")[0] for pair in self._dropped.items() for name in pair]
        return isinstance(modules, list) and all(
            isinstance(module, str) and any(f".{owner}".endswith(f".{module}") for owner in owners)
            for module in modules
        )

    def _copy_of(self, name: str) -> str | None:
        """Return the base's tensor of which `name` is a copy; raises InvalidAdapter for one that was trained."""
        if self._resolved[name] or ".lora_" in name:
            return None
        original = self._copies.original_of(name)
        if original and not self._copies.is_copy(name, self._stored[name], original):
            raise fully_trained(name, self._stored[name].info)
        return original


def _replace(folder: Path, files: list[Path], tensors: Mapping[str, StoredTensor]) -> None:
    """Write the weights file, and remove the files that it replaces."""
    written = folder / f"{WEIGHTS_FILE}.new"
    write_tensors(written, tensors)
    for path in {*files, folder / INDEX_FILE}:
        path.unlink(missing_ok=True)
    written.rename(folder / WEIGHTS_FILE)
