"""The modules of a base that PEFT can adapt, with the names and shapes of the files that PEFT writes.

PEFT itself is asked: it adds adapters of rank 1 to the model of transformers, on the meta device, without weights.
"""

from collections.abc import Iterator
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from loramux_adapters.base_description import TargetModule
from loramux_adapters.errors import UnsupportedBase

PREFIX = "base_model.model."


def build_model(config: Any) -> Any:
    """Return the model of a `config` of transformers on the meta device.

    Raises:
        UnsupportedBase: transformers does not have its architecture, or can't build it.
    """
    architecture = (config.architectures or [""])[0]
    model_class = getattr(transformers, architecture, None)
    if model_class is None:
        raise UnsupportedBase(f"transformers {transformers.__version__} does not have {architecture}")
    try:
        with torch.device("meta"):
            return model_class(config)
    except Exception as error:
        raise UnsupportedBase(f"transformers {transformers.__version__} can't build {architecture}: {error}") from error


def peft_modules(config: Any) -> dict[str, TargetModule]:
    """Return the modules that PEFT can adapt, by path: linear layers, the embedding, the head, and experts.

    Raises:
        UnsupportedBase: transformers does not have the architecture, or PEFT refuses it.
    """
    model = build_model(config)
    try:
        embedding, head = (
            _name_of(model, end) for end in (model.get_input_embeddings(), model.get_output_embeddings())
        )
        experts = list(_expert_parameters(model))
        modules = _all_linear(config)
        modules |= _adapted(build_model(config), target_modules=list(filter(None, (embedding, head))))
        if head:
            modules[head] = modules[head].model_copy(update={"is_head": True})
        if experts:
            modules |= _adapted(build_model(config), target_modules=[], target_parameters=experts)
    except Exception as error:
        raise UnsupportedBase(f"PEFT {peft.__version__} can't adapt {type(model).__name__}: {error}") from error
    return modules


def _all_linear(config: Any) -> dict[str, TargetModule]:
    try:
        return _adapted(build_model(config), target_modules="all-linear")
    except ValueError:  # it is incompatible with a module of this model
        names = {name.rpartition(".")[2] for name, module in build_model(config).named_modules() if _is_linear(module)}
        return {path: module for name in sorted(names) for path, module in _compatible(config, name).items()}


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _compatible(config: Any, name: str) -> dict[str, TargetModule]:
    """Return the linear modules of this name; none if PEFT refuses them."""
    model = build_model(config)
    head = _name_of(model, model.get_output_embeddings())
    paths = [path for path, module in model.named_modules() if _is_linear(module) and path != head]
    paths = [path for path in paths if path.rpartition(".")[2] == name]
    try:
        return _adapted(model, target_modules=paths) if paths else {}
    except ValueError:
        return {}


def _name_of(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((name for name, module in model.named_modules() if module is wanted), None)


def _adapted(model: Any, **targets: Any) -> dict[str, TargetModule]:
    adapted = get_peft_model(model, LoraConfig(r=1, **targets), low_cpu_mem_usage=True)
    return {
        name.removeprefix(PREFIX): _describe(layer)
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _describe(layer: LoraLayer) -> TargetModule:
    if layer.lora_embedding_A:
        a, b = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
        return TargetModule(inputs=a.shape[1], outputs=b.shape[0], kind="embedding")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    parameter = layer.parameter_name if isinstance(layer, ParamWrapper) else None
    return TargetModule(inputs=a.shape[1], outputs=b.shape[0], experts=a.shape[0], parameter=parameter)


def _expert_parameters(model: nn.Module) -> Iterator[str]:
    """Yield the parameters that hold the matrices of all experts; convolutions have three dimensions, too."""
    for path, module in model.named_modules():
        if not type(module).__module__.startswith("torch.nn"):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    yield f"{path}.{name}"
