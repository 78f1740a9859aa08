"""Size limits of valid adapter files, which are enforced before a file is copied or read."""

from math import prod

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE

MAX_CONFIG_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
"""The limit of a header for bases without many experts: all modules of 126 layers need a third of it."""
_ENTRY_BYTES = 200
"""The size of a tensor's entry in a header besides the module's name, in the longest form that tools write."""
HEADER_SIZE_BYTES = 8
_LARGEST_ITEM_BYTES = 4


def max_file_sizes(base: BaseDescription, max_rank: int) -> dict[str, int]:
    """Return the maximum size of each adapter file in bytes: float32 weights for all modules.

    There is also room for copies of the embedding and of the head, with an eighth more tokens than the base has: they
    are dropped, or refused by that reason and not by their size.
    """
    elements = sum(prod(shape) for module in base.modules.values() for shape in module.shapes(max_rank))
    vocabulary = base.spec.vocab_size + base.spec.vocab_size // 8 + 64
    weights = (elements + 2 * vocabulary * base.spec.hidden_size) * _LARGEST_ITEM_BYTES
    return {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: HEADER_SIZE_BYTES + max_header_bytes(base) + weights}


def max_header_bytes(base: BaseDescription) -> int:
    """Return the maximum size of the header of adapter weights: both matrices of all modules have an entry."""
    return max(MAX_HEADER_BYTES, 2 * sum(len(path) + _ENTRY_BYTES for path in base.modules))
