"""vLLM's arguments for an engine of the CUDA path, and a base and adapters that are small enough for it."""

from pathlib import Path
from typing import Any

from tests.helpers.peft_adapters import save_adapter
from tests.helpers.tiny_bases.bases import random_model, write_base

ARCHITECTURE = "LlamaForCausalLM"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

OPTIONS: dict[str, Any] = {
    # The LoRA kernels have no float32, and Triton's interpreter misreads bfloat16 where a kernel casts a pointer.
    "dtype": "float16",
    "enforce_eager": True,
    "max_num_seqs": 16,
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
    "kv_cache_memory_bytes": 16 << 20,
}


def write_cuda_path_base(folder: Path) -> Path:
    """Write a Llama of two layers."""
    return write_base(folder, ARCHITECTURE)


def write_adapters(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Write adapters of all linear modules, by name."""
    model = random_model(ARCHITECTURE)
    return {
        name: save_adapter(folder / name, model, seed=seed, r=8, lora_alpha=16, target_modules=LINEAR)
        for seed, name in enumerate(names)
    }
