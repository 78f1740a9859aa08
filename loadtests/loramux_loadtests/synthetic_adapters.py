"""Valid adapters with random weights, each with its own content: for measuring, not for answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WEIGHT_SCALE = 0.01
"""Small relative to a model's own weights, so that generation stays ordinary."""

LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path,
    base: Path,
    *,
    seed: int,
    rank: int = 1,
    modules: Sequence[str] = ("q_proj",),
    layers: Sequence[int] | None = None,
) -> Path:
    """Write a LoRA adapter in PEFT's format for the llama-like model in `base`; by default on every layer."""
    config = json.loads((base / "config.json").read_text())
    shapes = _shapes(config)
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]) if layers is None else layers:
        for module in modules:
            part, inputs, outputs = shapes[module]
            name = f"base_model.model.model.layers.{layer}.{part}.{module}"
            for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                values = generator.normal(scale=WEIGHT_SCALE, size=shape).astype(np.float32)
                tensors[f"{name}.lora_{side}.weight"] = values
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(modules),
        "layers_to_transform": None if layers is None else list(layers),
    }
    (folder / "adapter_config.json").write_text(json.dumps(description, indent=2) + "\n")
    return folder


def write_adapters(folder: Path, base: Path, count: int, *, rank: int) -> dict[str, Path]:
    """Write `count` adapters on all linear modules, and return their folders by name."""
    return {
        f"a{number}": write_adapter(folder / f"a{number}", base, seed=number, rank=rank, modules=LINEAR_MODULES)
        for number in range(count)
    }


def _shapes(config: dict[str, Any]) -> dict[str, tuple[str, int, int]]:
    """Map each linear module to (part of the layer, input width, output width)."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, config.get("num_key_value_heads", heads) * head
    return {
        "q_proj": ("self_attn", hidden, queries),
        "k_proj": ("self_attn", hidden, keys),
        "v_proj": ("self_attn", hidden, keys),
        "o_proj": ("self_attn", queries, hidden),
        "gate_proj": ("mlp", hidden, inner),
        "up_proj": ("mlp", hidden, inner),
        "down_proj": ("mlp", inner, hidden),
    }
