"""Small adapters for the validator: valid ones, and all kinds of invalid ones."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save, save_file

from loramux_adapters.base_description import BaseDescription, layer_of
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE
from tests.helpers.llama_bases import LlamaSizes, llama_base

SIZES = LlamaSizes()
BASE = llama_base(SIZES)

Tensors = dict[str, npt.NDArray[Any]]


def lora_config(**changes: Any) -> dict[str, Any]:
    """Return PEFT 0.21's config of a LoRA of rank 4 on two modules of all layers, with `changes`."""
    return {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "tiny",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "kasa_config": None,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "lora_ga_config": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "monteclora_config": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": 4,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
        "velora_config": None,
    } | changes


def _peft_configs() -> dict[str, dict[str, Any]]:
    """Return the config of a plain LoRA as each version of PEFT writes it."""
    added_keys: dict[str, dict[str, Any]] = {
        "0.3": {
            "base_model_name_or_path": "org/tiny", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
            "init_lora_weights": True, "lora_alpha": 8, "lora_dropout": 0.05, "modules_to_save": None,
            "peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
        },
        "0.5": {"auto_mapping": None, "layers_pattern": None, "layers_to_transform": None, "revision": None},
        "0.6": {"alpha_pattern": {}, "rank_pattern": {}},
        "0.7": {"loftq_config": {}, "megatron_config": None, "megatron_core": "megatron.core"},
        "0.8": {"use_rslora": False},
        "0.11": {"layer_replication": None, "use_dora": False},
        "0.14": {"eva_config": None, "exclude_modules": None, "lora_bias": False},
        "0.15": {"corda_config": None, "trainable_token_indices": None},
        "0.16": {"qalora_group_size": 16, "use_qalora": False},
        "0.17": {"target_parameters": None},
        "0.18": {
            "alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False,
            "peft_version": "0.18.0",
        },
        "0.19": {"lora_ga_config": None, "peft_version": "0.19.0", "use_bdlora": None},
    }  # fmt: skip
    configs: dict[str, dict[str, Any]] = {}
    keys: dict[str, Any] = {}
    for version, added in added_keys.items():
        keys = keys | added
        configs[version] = keys
    return configs | {"0.21": lora_config()}


PEFT_CONFIGS = _peft_configs()


def tensor_name(layer: int, module: str, part: str) -> str:
    path = next(path for path in SIZES.linear_modules if path.endswith(f".{module}"))
    return f"base_model.model.model.layers.{layer}.{path}.lora_{part}.weight"


def lora_tensors(
    modules: tuple[str, ...] = ("q_proj", "v_proj"),
    layers: tuple[int, ...] = (0, 1, 2),
    rank: int = 4,
    dtype: npt.DTypeLike = np.float32,
    sizes: LlamaSizes = SIZES,
    seed: int = 0,
) -> Tensors:
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer in layers:
        for module in modules:
            inputs, outputs = next(s for path, s in sizes.linear_modules.items() if path.endswith(f".{module}"))
            tensors[tensor_name(layer, module, "A")] = (rng.standard_normal((rank, inputs)) / 10).astype(dtype)
            tensors[tensor_name(layer, module, "B")] = (rng.standard_normal((outputs, rank)) / 10).astype(dtype)
    return tensors


def tensors_for(
    base: BaseDescription,
    modules: Collection[str] = (),
    layers: Collection[int] = (),
    rank: int = 4,
    seed: int = 0,
) -> Tensors:
    """Return the tensors of an adapter of `base`: of its linear modules of these names and layers (default: all)."""
    rng = np.random.default_rng(seed)
    chosen = {
        path: module
        for path, module in base.linear.items()
        if (not modules or path.rpartition(".")[2] in modules) and (not layers or layer_of(path) in layers)
    }
    return {
        f"base_model.model.{path}.lora_{part}.weight": (rng.standard_normal(shape) / 10).astype(np.float32)
        for path, module in chosen.items()
        for part, shape in zip("AB", module.shapes(rank), strict=True)
    }


def write_adapter(folder: Path, config: dict[str, Any] | None = None, tensors: Tensors | None = None) -> Path:
    """Write both files to `folder`, valid ones by default, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(lora_config() if config is None else config))
    save_file(lora_tensors() if tensors is None else tensors, folder / WEIGHTS_FILE)
    return folder


def write_raw(folder: Path, header: bytes, data: bytes = b"", header_size: int | None = None) -> Path:
    """Write a weights file byte for byte, and a valid config."""
    write_adapter(folder)
    size = len(header) if header_size is None else header_size
    (folder / WEIGHTS_FILE).write_bytes(size.to_bytes(8, "little") + header + data)
    return folder


def split_weights(tensors: Tensors) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data that the safetensors library writes for `tensors`."""
    raw = save(tensors)
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def as_bfloat16(tensors: Tensors) -> tuple[dict[str, Any], bytes]:
    """Return header and data of the float32 `tensors` truncated to bfloat16, which NumPy does not have."""
    upper_halves = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in tensors.items()}
    header, data = split_weights(upper_halves)
    return {name: entry | {"dtype": "BF16"} for name, entry in header.items()}, data
