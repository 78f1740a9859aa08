"""Whether files are an adapter of the base: a manifest, or a refusal that says what and where."""

from pathlib import Path

from loramux_adapters.content import CONFIG_FILE, WEIGHTS_FILE, content_digest, file_facts, open_regular
from loramux_adapters.records import BaseSpec, Manifest
from loramux_adapters.validation.config import read_config
from loramux_adapters.validation.layout import check_layout, expected_tensors
from loramux_adapters.validation.limits import largest_file
from loramux_adapters.validation.tensors import read_tensors
from loramux_adapters.validation.values import check_values

__all__ = ["largest_file", "validate"]


def validate(folder: Path, base: BaseSpec, max_rank: int) -> Manifest:
    """Check the adapter in `folder` against `base`, and return what was found; raises InvalidAdapter, OSError.

    The folder must be the caller's own: whoever can write to it meanwhile can change what was checked.
    Memory stays within tens of MiB, whatever the files claim to hold.
    """
    files = file_facts(folder)
    with open_regular(folder / CONFIG_FILE) as file:
        config = read_config(file, max_rank)
    with open_regular(folder / WEIGHTS_FILE) as file:
        tensors = read_tensors(file, files[WEIGHTS_FILE].bytes)
        expected = expected_tensors(config, base)
        check_layout(tensors, expected)
        check_values(file, tensors, config.scaling)
    return Manifest(
        digest=content_digest(files),
        base=base,
        rank=config.r,
        alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        scaling=config.scaling,
        target_modules=tuple(sorted({place.module for place in expected.values()})),
        layers=tuple(sorted({place.layer for place in expected.values()})),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors.values()})),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        weights_bytes=sum(tensor.bytes for tensor in tensors.values()),
        files=files,
    )
