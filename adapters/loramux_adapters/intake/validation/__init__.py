"""Whether files are an adapter of the base: a manifest, or a refusal that says what and where."""

import os
import re
from pathlib import Path

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE, content_digest, file_facts, open_regular
from loramux_adapters.intake.validation.config import LoraConfig, read_config
from loramux_adapters.intake.validation.layout import check_layout, expected_pairs
from loramux_adapters.intake.validation.limits import largest_file
from loramux_adapters.intake.validation.tensors import read_tensors
from loramux_adapters.intake.validation.values import check_values
from loramux_adapters.models import BaseSpec, Manifest

__all__ = ["largest_file", "validate"]


def validate(folder: Path, base: BaseSpec, max_rank: int, *, refuse_other_base: bool = False) -> Manifest:
    """Check the adapter in `folder` against `base`, and return what was found; raises InvalidAdapter, OSError.

    That the config names another base is a warning in the manifest, or a refusal with `refuse_other_base`.
    The folder must be the caller's own: whoever can write to it meanwhile can change what was checked.
    Memory stays within tens of MiB, whatever the files claim to hold; the weights are read twice at most.
    """
    with open_regular(folder / CONFIG_FILE) as file:
        config = read_config(file, max_rank)
    other_base = _other_base(config, base)
    if other_base and refuse_other_base:
        raise other_base
    with open_regular(folder / WEIGHTS_FILE) as file:
        tensors = read_tensors(file, os.fstat(file.fileno()).st_size)
        pairs = expected_pairs(config, base, tensors.keys())
        check_layout(tensors, pairs)
        check_values(file, tensors, pairs)
    files = file_facts(folder)
    return Manifest(
        digest=content_digest(files),
        base=base,
        rank=config.largest_rank,
        alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        scaling=config.scaling,
        target_modules=tuple(sorted({pair.name for pair in pairs})),
        layers=tuple(sorted({pair.layer for pair in pairs})),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors.values()})),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        weights_bytes=sum(tensor.bytes for tensor in tensors.values()),
        files=files,
        warnings=(other_base.message,) if other_base else (),
    )


def _other_base(config: LoraConfig, base: BaseSpec) -> InvalidAdapter | None:
    """What is wrong if the config names another base: people move and rename folders, so it need not be fatal."""
    found = config.base_model_name_or_path
    if not found or _last_part(found) == _last_part(base.name):
        return None
    problem = "base_model_name_or_path is another base (LORAMUX_BASE_MISMATCH says whether that is refused)"
    return InvalidAdapter(problem, where=CONFIG_FILE, expected=base.name, found=found)


def _last_part(name: str) -> str:
    """`ORG/Model`, `/models/Model/` and `model` are the same base."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()
