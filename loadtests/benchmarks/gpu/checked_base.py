"""A base and adapters whose answers can be computed by other programs; and an adapter that computes NaN.

The base has real, random weights, which bfloat16 can represent. One number of the first layer's input is enormous
there, and all weights for it are zero, so neither the base nor sound adapters notice it. The adapter that computes NaN
reads it. Its own weights are within the limits of what is accepted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks.gpu.shapes import RANK, linear_shapes, read_config, write_base

Tensors = dict[str, npt.NDArray[np.float32]]

CHECKED: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_hidden_layers": 4,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
ADAPTERS, NAN = 4, "nan"
SCALING = 2.0
ENORMOUS = 5e36
"""Times at most the root of the hidden size, that is still finite in bfloat16."""
NAN_A, NAN_B = 1e4, 1e-3
"""The values of A for the enormous number, whose product is infinite in float32, and the scale of B."""
READ_BY = ("q_proj", "k_proj", "v_proj")
"""The modules whose inputs have the enormous number."""


@dataclass(frozen=True)
class CheckedModels:
    """Folders of the base, the sound adapters by name, and the adapter that computes NaN."""

    base: Path
    sound: Mapping[str, Path]
    nan: Path

    @property
    def adapters(self) -> Mapping[str, Path]:
        """All adapters."""
        return {**self.sound, NAN: self.nan}


def write_models(folder: Path, tokenizer: Path, shape: Mapping[str, Any], dtype: str) -> CheckedModels:
    """Write the base and its adapters.

    Raises:
        LoadTestError: there is no tokenizer.
    """
    base = write_base(folder / "checked", tokenizer, shape, dtype)
    config = read_config(base)
    save_file(_base_tensors(config), base / "model.safetensors", metadata={"format": "pt"})
    shapes = linear_shapes(config)
    sound = {f"s{n}": _write(folder / "sound" / f"s{n}", _adapter(shapes, n + 1)) for n in range(ADAPTERS)}
    first = "model.layers.0.self_attn.v_proj"
    nan = _write(folder / "nan" / NAN, _adapter({first: shapes[first]}, 100, enormous=NAN_A, scale=NAN_B))
    return CheckedModels(base, sound, nan)


def _base_tensors(config: Mapping[str, Any]) -> Tensors:
    rng, hidden = np.random.default_rng(0), config["hidden_size"]
    tensors = {f"{path}.weight": _random(rng, (outputs, inputs), inputs**-0.5)
               for path, (inputs, outputs) in linear_shapes(config).items()}  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(hidden, np.float32)
    for module in READ_BY:
        tensors[f"model.layers.0.self_attn.{module}.weight"][:, 0] = 0
    tensors["model.layers.0.input_layernorm.weight"][:1] = _rounded(np.full(1, ENORMOUS, np.float32))
    tensors["model.norm.weight"] = np.ones(hidden, np.float32)
    tensors["model.embed_tokens.weight"] = _random(rng, (config["vocab_size"], hidden), 1.0)
    tensors["lm_head.weight"] = _random(rng, (config["vocab_size"], hidden), 2 * hidden**-0.5)
    return tensors


def _adapter(
    shapes: Mapping[str, tuple[int, int]], seed: int, *, enormous: float = 0.0, scale: float = 0.5 * RANK**-0.5
) -> Tensors:
    """Return the matrices of an adapter, which change each layer's output about as much as the base's weights.

    `enormous` is the value of A for the enormous number, and `scale` that of B.
    """
    rng, tensors = np.random.default_rng(seed), Tensors()
    for path, (inputs, outputs) in shapes.items():
        a = _random(rng, (RANK, inputs), inputs**-0.5)
        if path.startswith("model.layers.0.") and path.endswith(READ_BY):
            a[:, 0] = enormous
        tensors[f"base_model.model.{path}.lora_A.weight"] = a
        tensors[f"base_model.model.{path}.lora_B.weight"] = _random(rng, (outputs, RANK), scale)
    return tensors


def _random(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> npt.NDArray[np.float32]:
    return _rounded(rng.standard_normal(shape, np.float32) * np.float32(scale))


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return values of float32 that bfloat16 has, too."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _write(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = sorted({name.split(".")[-3] for name in tensors})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "checked",
        "r": RANK,
        "lora_alpha": RANK * SCALING,
        "target_modules": modules,
        "layers_to_transform": sorted({int(name.split(".")[4]) for name in tensors}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
