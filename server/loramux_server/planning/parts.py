"""The parts of a GPU's memory that the engine takes, in bytes.

Weights, slots and KV cache are what vLLM itself says; the rest is an estimate, from above for usual models.
"""

from dataclasses import astuple, dataclass

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.base_memory import BaseMemory
from loramux_server.planning.device import GIB, Batch

BYTES_PER_VALUE = 2
"""Of activations and adapters: vLLM's kernels for adapters take float16 and bfloat16 only."""
BYTES_PER_LOGIT = 16
"""Of a request's logits in a step: in 16 and in 32 bits, sorted, and summed up."""
LIBRARY_BYTES = 512 << 20
"""What cuBLAS, Triton and the attention kernels take for themselves."""
GRAPH_BYTES_PER_LAYER = 8 << 20
"""Of all CUDA graphs without adapters; vLLM captures each once more with adapters."""


@dataclass(frozen=True)
class Parts:
    """The parts of one GPU."""

    weights: int
    slots: int
    activations: int
    cuda_graphs: int
    libraries: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


def engine_parts(base: BaseDescription, memory: BaseMemory, batch: Batch, slots: int, rank: int) -> Parts:
    """Return what the engine takes, without the KV cache, with `slots` for adapters up to `rank`."""
    arguments = memory.arguments
    offloaded = int(float(arguments.get("cpu_offload_gb") or 0) * GIB)
    graphs = 0 if arguments.get("enforce_eager") else GRAPH_BYTES_PER_LAYER * base.spec.num_hidden_layers
    gpus = gpu_count(memory)
    return Parts(
        weights=max(0, memory.weight_bytes // gpus - offloaded),
        slots=slots * slot_bytes(memory, rank),
        activations=_activation_bytes(base, memory, batch),
        cuda_graphs=graphs * (1 if base.refusal else 2),
        libraries=LIBRARY_BYTES,
    )


def gpu_count(memory: BaseMemory) -> int:
    """Return the number of GPUs that share the base."""
    tensor, pipeline = _parallel_sizes(memory)
    return tensor * pipeline


def kv_cache_parts(memory: BaseMemory) -> int:
    """Return into how many parts the GPUs that share the base split the KV cache; others have copies."""
    tensor, pipeline = _parallel_sizes(memory)
    return min(tensor, memory.kv_cache_parts or tensor) * pipeline


def _parallel_sizes(memory: BaseMemory) -> tuple[int, int]:
    tensor, pipeline = (memory.arguments.get(f"{name}_parallel_size") or 1 for name in ("tensor", "pipeline"))
    return int(tensor), int(pipeline)


def slot_bytes(memory: BaseMemory, rank: int) -> int:
    """Return the size of one slot for adapters up to `rank`."""
    return memory.slot_bytes_per_rank * rank


def adapter_host_bytes(base: BaseDescription, rank: int) -> int:
    """Return the host memory of an adapter of this rank of all linear modules.

    It is pinned, and torch's allocator of pinned memory rounds each tensor up to a power of two.
    """
    sizes = (rows * columns for module in base.linear.values() for rows, columns in module.shapes(rank))
    return sum(power_of_two(size * BYTES_PER_VALUE) for size in sizes)


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def _activation_bytes(base: BaseDescription, memory: BaseMemory, batch: Batch) -> int:
    per_token = (memory.values_per_token + 4 * base.spec.hidden_size) * BYTES_PER_VALUE
    return batch.tokens * per_token + batch.requests * base.spec.vocab_size * BYTES_PER_LOGIT
