"""Corrects vLLM's list of packed layers by the base's own names.

vLLM packs layers, such as `gate_proj` and `up_proj`, into one, and takes the weights of adapters for its parts. Some
bases have the packed layer themselves: Phi-3, which vLLM's list knows, and GLM-4, which it does not. The weights of
their adapters are for the whole layer; with vLLM's list as it is, they are refused.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from safetensors import safe_open
from vllm.lora import model_manager

PackedModules = dict[str, list[str]]


def install_fused_layers() -> None:
    """Make vLLM's LoRA manager take adapters of layers that the base has as one, as one."""
    model_manager.process_packed_modules_mapping = _corrected(model_manager.process_packed_modules_mapping)


def _corrected(process: Callable[..., PackedModules]) -> Callable[..., PackedModules]:
    @wraps(process)
    def process_and_correct(model: Any, *args: Any, **kwargs: Any) -> PackedModules:
        packed = process(model, *args, **kwargs)
        folder = Path(getattr(model.config, "name_or_path", "") or "/nonexistent")
        return with_fused_layers(packed, set(_module_names(folder)))

    return process_and_correct


def with_fused_layers(packed: Mapping[str, list[str]], names: set[str]) -> PackedModules:
    """Return `packed` without the parts of layers whose own names are among the base's `names`, and theirs are not."""
    return {
        layer: [layer] if layer in names and names.isdisjoint(parts) else list(parts) for layer, parts in packed.items()
    }


def _module_names(folder: Path) -> Iterator[str]:
    """Yield the last parts of the names of all modules with weights in the files of the base."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                yield name.removesuffix(".weight").rpartition(".")[2]
