"""Which of a source's files are fetched: the config, the weights in one of their forms, and optional files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.chat.companions import COMPANION_LIMITS
from loramux_adapters.intake.content import ADAPTER_FILES, CONFIG_FILE, INDEX_FILE, MLX_WEIGHTS_FILE, WEIGHTS_FILE
from loramux_adapters.intake.weight_index import MAX_INDEX_BYTES, is_shard_name, parse_index

CopyFile = Callable[[str, int], bool]
"""Copies the file with the given name and maximum size to the staging folder; False if there is no such file."""


def copy_adapter(copy: CopyFile, into: Path, max_bytes: Mapping[str, int]) -> bool:
    """Copy an adapter's files to `into`; return False if config or weights are missing.

    Args:
        copy: copies one file.
        into: the folder that it copies to.
        max_bytes: limits by file name. That of adapter_model.safetensors is the limit of all weights together, in
            whichever files they are; names besides those of config and weights are of optional files.

    Raises:
        InvalidAdapter: a file is too large, or the index of the weights is invalid.
    """
    if CONFIG_FILE in max_bytes and not copy(CONFIG_FILE, max_bytes[CONFIG_FILE]):
        return False
    if WEIGHTS_FILE in max_bytes and not _copy_weights(copy, into, max_bytes[WEIGHTS_FILE]):
        return False
    for name in sorted(max_bytes.keys() - set(ADAPTER_FILES)):
        copy(name, max_bytes[name])
    return True


def _copy_weights(copy: CopyFile, into: Path, max_bytes: int) -> bool:
    if copy(WEIGHTS_FILE, max_bytes):
        return True
    if not copy(INDEX_FILE, MAX_INDEX_BYTES):
        return copy(MLX_WEIGHTS_FILE, max_bytes)
    for shard in sorted(set(parse_index((into / INDEX_FILE).read_bytes()).values())):
        if not copy(shard, max_bytes):
            raise InvalidAdapter("the file is missing, although the index names it", where=shard)
        max_bytes -= (into / shard).stat().st_size
    return True


def adapter_files(names: Iterable[str]) -> list[str]:
    """Return those of a folder's files that can be parts of an adapter: to upload them, before anything is read."""
    present = set(names)
    whole = {CONFIG_FILE, WEIGHTS_FILE, *COMPANION_LIMITS}
    if WEIGHTS_FILE not in present:
        whole |= {INDEX_FILE, MLX_WEIGHTS_FILE, *filter(is_shard_name, present)}
    return sorted(present & whole)
