"""How large an honest adapter can be: what is larger is not read, stored or even copied."""

from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.models import LINEAR_MODULES, BaseSpec

MAX_CONFIG_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20  # 126 layers, more than any open model has, with all modules need a third of it.
HEADER_SIZE_BYTES = 8
_LARGEST_ITEM_BYTES = 4


def largest_file(base: BaseSpec, max_rank: int) -> dict[str, int]:
    """Return for each of an adapter's files the most bytes that it can have: float32, all modules, all layers."""
    per_layer = sum(sum(base.module_shape(module)) for module in LINEAR_MODULES)
    weights = base.num_hidden_layers * per_layer * max_rank * _LARGEST_ITEM_BYTES
    return {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: HEADER_SIZE_BYTES + MAX_HEADER_BYTES + weights}
