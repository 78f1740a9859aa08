"""Valid adapters with random weights, each with its own content: for measuring, not for answers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
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
    shapes: Mapping[str, tuple[int, int]] | None = None,
) -> Path:
    """Write a LoRA adapter in PEFT's format for the model in `base`; by default on the first module of every layer.

    `shapes` are (inputs, outputs) of the linear modules by path; by default they are read from the base's weights.
    """
    shapes = shapes or linear_shapes(base)
    modules = modules or module_names(shapes)[:1]
    generator = np.random.default_rng(seed)
    tensors = {}
    for path, (inputs, outputs) in shapes.items():
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
    modules = module_names(linear_shapes(base))
    return {f"a{n}": write_adapter(folder / f"a{n}", base, seed=n, rank=rank, modules=modules) for n in range(count)}


def module_names(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the last parts of these paths."""
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path in paths))


@cache
def linear_shapes(base: Path) -> dict[str, tuple[int, int]]:
    """Map the path of each linear module in a layer to (inputs, outputs)."""
    shapes = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                shape = weights.get_slice(name).get_shape()
                if len(shape) == 2 and name.endswith(".weight") and _layer(name) is not None:
                    shapes[name.removesuffix(".weight")] = (shape[1], shape[0])
    return shapes


def _layer(path: str) -> int | None:
    found = re.search(r"\.(\d+)\.", path)
    return int(found[1]) if found else None
