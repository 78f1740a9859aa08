"""GPUs and bases of real sizes, for tests of memory plans. The sizes of the bases are those of their config.json."""

from dataclasses import dataclass
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.base_memory import BaseMemory
from loramux_server.planning.device import GIB, Device
from tests.helpers.llama_bases import LlamaSizes, llama_base

MIB = 1 << 20


def gpu(name: str, mib: int, capability: tuple[int, int], free_mib: int | None = None) -> Device:
    """Return a GPU with the memory that nvidia-smi reports."""
    return Device(name, mib * MIB, (mib if free_mib is None else free_mib) * MIB, capability)


GPUS = {
    "T4": gpu("Tesla T4", 15360, (7, 5)),
    "L4": gpu("NVIDIA L4", 23034, (8, 9)),
    "RTX 4090": gpu("NVIDIA GeForce RTX 4090", 24564, (8, 9), 23500),  # of a desktop: its screen takes a part
    "A10G": gpu("NVIDIA A10G", 23028, (8, 6)),
    "L40S": gpu("NVIDIA L40S", 46068, (8, 9)),
    "A100 80": gpu("NVIDIA A100-SXM4-80GB", 81920, (8, 0)),
    "H100": gpu("NVIDIA H100 80GB HBM3", 81559, (9, 0)),
    "H200": gpu("NVIDIA H200", 143771, (9, 0)),
}


@dataclass(frozen=True)
class Shape:
    """A base: its sizes, the bytes of its weights as served, and its longest context."""

    sizes: LlamaSizes
    weight_bytes: int
    max_context: int
    quantization: str | None = None

    def describe(self, **arguments: Any) -> BaseDescription:
        """Return its description, with the operator's engine `arguments`."""
        sizes = self.sizes
        per_token = 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * 2
        lora = sum(inputs + outputs for inputs, outputs in sizes.linear_modules.values()) * sizes.num_hidden_layers
        memory = BaseMemory(
            weight_bytes=self.weight_bytes,
            dtype="bfloat16",
            quantization=self.quantization,
            min_capability=75 if self.quantization else None,
            slot_bytes_per_rank=2 * (lora + sizes.vocab_size + sizes.hidden_size),
            head_slot_bytes_per_rank=2 * (sizes.vocab_size + sizes.hidden_size),
            values_per_token=sizes.hidden_size + 3 * sizes.intermediate_size,
            max_context=self.max_context,
            request_samples=((16, 16 * per_token), (self.max_context, self.max_context * per_token)),
            kv_cache_parts=sizes.num_key_value_heads,
            arguments=arguments,
        )
        return llama_base(sizes, "base", memory=memory)


def _sizes(
    hidden: int, inner: int, heads: int, kv_heads: int, head_dim: int, layers: int, vocabulary: int
) -> LlamaSizes:
    return LlamaSizes(hidden, inner, heads, kv_heads, head_dim, layers, vocabulary)


SHAPES = {
    "0.5B": Shape(_sizes(896, 4864, 14, 2, 64, 24, 151936), 988_065_536, 32768),  # Qwen2.5, tied head
    "1.5B": Shape(_sizes(1536, 8960, 12, 2, 128, 28, 151936), 3_087_428_608, 32768),  # Qwen2.5, tied head
    "3B": Shape(_sizes(3072, 8192, 24, 8, 128, 28, 128256), 6_425_499_648, 131072),  # Llama 3.2, tied head
    "8B": Shape(_sizes(4096, 14336, 32, 8, 128, 32, 128256), 16_060_522_496, 131072),  # Llama 3.1
    "8B AWQ": Shape(_sizes(4096, 14336, 32, 8, 128, 32, 128256), 5_727_854_592, 131072, "awq"),
    "70B": Shape(_sizes(8192, 28672, 64, 8, 128, 80, 128256), 141_107_412_992, 131072),  # Llama 3.1
}
__all__ = ["GIB", "GPUS", "MIB", "SHAPES", "Shape", "gpu"]
