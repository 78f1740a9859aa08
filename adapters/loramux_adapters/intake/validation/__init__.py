"""Validation of adapter files against the base: returns a manifest, or an error that says what is wrong and where."""

import os
import re
from pathlib import Path

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE, content_digest, hash_files, open_regular
from loramux_adapters.intake.validation.config import LoraConfig, check_config, read_values, refuse_expressions
from loramux_adapters.intake.validation.layout import check_layout, expected_pairs
from loramux_adapters.intake.validation.limits import max_file_sizes, max_header_bytes
from loramux_adapters.intake.validation.selection import select
from loramux_adapters.intake.validation.tensors import read_tensors
from loramux_adapters.intake.validation.values import check_values
from loramux_adapters.models import Manifest

__all__ = ["max_file_sizes", "validate"]


def validate(folder: Path, base: BaseDescription, max_rank: int, *, refuse_other_base: bool = False) -> Manifest:
    """Check the adapter in `folder` against `base`, and return its manifest.

    A config that names another base leads to a warning in the manifest, or to an error with `refuse_other_base`. Only
    the caller may be able to write to `folder`: another writer could change files after they were checked. Memory use
    stays within tens of MiB for any files, and the weights are read at most twice.

    Raises:
        InvalidAdapter: the files are not a valid adapter of this base.
        OSError: the files can't be read.
    """
    if base.refusal:
        raise InvalidAdapter(base.refusal, where=base.name)
    with open_regular(folder / CONFIG_FILE) as file:
        values = read_values(file)
    config, warnings = check_config(values, max_rank)
    refuse_expressions(config)
    other_base = _other_base(config, base)
    if other_base and refuse_other_base:
        raise other_base
    selection = select(config, base)
    with open_regular(folder / WEIGHTS_FILE) as file:
        tensors = read_tensors(file, os.fstat(file.fileno()).st_size, max_header_bytes(base))
        pairs = expected_pairs(config, selection, base, tensors)
        check_layout(tensors, pairs, base)
        check_values(file, tensors, pairs)
    files = hash_files(folder)
    return Manifest(
        digest=content_digest(files),
        base=base.spec,
        rank=config.largest_rank,
        alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        scaling=config.scaling,
        target_modules=tuple(sorted({pair.name for pair in pairs})),
        layers=tuple(sorted({pair.layer for pair in pairs if pair.layer is not None})),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors.values()})),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        weights_bytes=sum(tensor.bytes for tensor in tensors.values()),
        files=files,
        warnings=(*([other_base.message] if other_base else []), *warnings, *selection.warnings()),
    )


def _other_base(config: LoraConfig, base: BaseDescription) -> InvalidAdapter | None:
    """Return the error if the config names another base: folders get moved and renamed, so it need not be fatal."""
    found = config.base_model_name_or_path
    if not found or _last_part(found) == _last_part(base.name):
        return None
    problem = "base_model_name_or_path names another base (LORAMUX_BASE_MISMATCH: warn or refuse)"
    return InvalidAdapter(problem, where=CONFIG_FILE, expected=base.name, found=found)


def _last_part(name: str) -> str:
    """`ORG/Model`, `/models/Model/` and `model` are the same base."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()
