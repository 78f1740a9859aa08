"""Valid adapters with random weights, each with its own content: for measuring, not for answers."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

WEIGHT_SCALE = 0.01
"""Small relative to a model's own weights, so that generation stays ordinary."""


def write_adapter(
    folder: Path,
    base: Path,
    *,
    seed: int,
    rank: int = 1,
    modules: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Path:
    """Write a LoRA adapter in PEFT's format for the model in `base`; by default on the first module of every layer."""
    modules = modules or linear_modules(base)[:1]
    generator = np.random.default_rng(seed)
    tensors = {}
    for path, (inputs, outputs) in _linear_shapes(base).items():
        if path.rpartition(".")[2] in modules and (layers is None or _layer(path) in layers):
            for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                values = generator.normal(scale=WEIGHT_SCALE, size=shape).astype(np.float32)
                tensors[f"base_model.model.{path}.lora_{side}.weight"] = values
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
        f"a{number}": write_adapter(folder / f"a{number}", base, seed=number, rank=rank, modules=linear_modules(base))
        for number in range(count)
    }


def linear_modules(base: Path) -> tuple[str, ...]:
    """Return the last parts of the paths of the linear modules in the layers of the model in `base`."""
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path in _linear_shapes(base)))


@cache
def _linear_shapes(base: Path) -> dict[str, tuple[int, int]]:
    """Map the path of each linear module in a layer to (inputs, outputs)."""
    shapes = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                shape = weights.get_slice(name).get_shape()
                if len(shape) == 2 and name.endswith(".weight") and _layer(name) is not None:
                    shapes[name.removesuffix(".weight")] = (shape[1], shape[0])
    return shapes or _described_shapes(base)


def _described_shapes(base: Path) -> dict[str, tuple[int, int]]:
    """Read the shapes from the model that the config describes, for a base without weights."""
    # Both take seconds to import, and most bases have weights.
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(base))
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and _layer(name) is not None
    }


def _layer(path: str) -> int | None:
    found = re.search(r"\.(\d+)\.", path)
    return int(found[1]) if found else None
