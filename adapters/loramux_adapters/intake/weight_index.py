"""The index of weights that are saved in several files (shards)."""

import re

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import INDEX_FILE, WEIGHTS_FILE
from loramux_adapters.intake.validation.strict_json import parse_object

MAX_INDEX_BYTES = 4 << 20
MAX_SHARDS = 256
# No separator and no leading dot: a shard's name becomes part of a path.
_SHARD = re.compile(r"[A-Za-z0-9][\w.-]{0,199}\.safetensors", re.ASCII)


def is_shard_name(name: str) -> bool:
    """Whether `name` can be the name of a file in an index; it is a plain file name then."""
    return name != WEIGHTS_FILE and _SHARD.fullmatch(name) is not None


def parse_index(raw: bytes) -> dict[str, str]:
    """Return the name of the file of each tensor, by the tensor's name.

    Raises:
        InvalidAdapter: the index is malformed, or names something else than files next to it.
    """
    files = parse_object(raw, INDEX_FILE).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise InvalidAdapter("weight_map is not an object of file names by tensor", where=INDEX_FILE)
    shards = {shard if isinstance(shard, str) else "" for shard in files.values()}
    if len(shards) > MAX_SHARDS:
        raise InvalidAdapter("too many files", where=INDEX_FILE, expected=f"at most {MAX_SHARDS}", found=len(shards))
    if others := [shard for shard in shards if not is_shard_name(shard)]:
        expected = "such as adapter_model-00001-of-00002.safetensors"
        problem = "weight_map names something else than a file next to it"
        raise InvalidAdapter(problem, where=INDEX_FILE, expected=expected, found=min(others))
    return files
