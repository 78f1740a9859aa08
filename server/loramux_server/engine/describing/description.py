"""Joins PEFT's view of a base with vLLM's: which of the modules that PEFT can adapt vLLM applies adapters to."""

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.errors import UnsupportedBase
from loramux_adapters.models import BaseSpec
from loramux_server.engine.describing.peft_view import build_model, peft_modules
from loramux_server.engine.describing.vllm_view import (
    VllmView,
    chosen_options,
    model_config,
    parse_arguments,
    vllm_view,
)


def describe(folder: Path, name: str, options: Mapping[str, Any], versions: Mapping[str, str]) -> BaseDescription:
    """Return the description of the base in `folder`, which is served as `name` with vLLM's `options`.

    Raises:
        EngineArgumentError: an option is refused.
        Exception: any error of vLLM, for a base that it does not serve.
    """
    arguments = parse_arguments(folder, name, options)
    config = model_config(arguments)
    modules: dict[str, TargetModule] = {}
    refusal = None
    try:  # before vLLM's view, which changes classes of transformers
        modules = peft_modules(config.hf_config)
        model = build_model(config.hf_config)
        parameters = sum(prod(parameter.shape) for parameter in model.parameters())
        can_checkpoint = bool(getattr(model, "supports_gradient_checkpointing", False))
    except UnsupportedBase as error:
        refusal, parameters, can_checkpoint = error.message, 1, False
    view = vllm_view(arguments, chosen_options(folder, name, options))
    refusal = view.refusal or refusal
    modules = {path: _with_refusal(path, module, view) for path, module in modules.items()} | _experts(modules, view)
    if not refusal and all(module.refusal for module in modules.values()):
        refusal = f"vLLM applies adapters to no module of {view.architecture}"
    spec = BaseSpec(
        name=name,
        architecture=view.architecture,
        hidden_size=config.get_hidden_size(),
        num_hidden_layers=config.get_total_num_hidden_layers(),
        vocab_size=config.get_vocab_size(),
        modules_digest=_digest(modules),
    )
    fields = {"memory": view.memory, "memory_problem": view.memory_problem, "versions": versions}
    return BaseDescription.of(
        modules, spec=spec, parameters=parameters, can_checkpoint=can_checkpoint, refusal=refusal, **fields
    )


def _with_refusal(path: str, module: TargetModule, view: VllmView) -> TargetModule:
    # PEFT nests the matrices of experts: the first in `experts.base_layer`, the second in `experts`, which vLLM wraps.
    if view.refusal or view.rename(path.removesuffix(".base_layer")) in view.applied:
        return module
    return module.model_copy(update={"refusal": f"vLLM does not apply adapters to this module of {view.architecture}"})


def _experts(modules: Mapping[str, TargetModule], view: VllmView) -> dict[str, TargetModule]:
    """Return the matrices of single experts, which older releases of transformers and PEFT have as linear modules."""
    found = {}
    for path in modules:
        for name, (inputs, outputs) in view.experts.get(view.rename(path) or "", {}).items():
            found[path.removesuffix("experts") + name] = TargetModule(inputs=inputs, outputs=outputs, is_expert=True)
    return found


def _digest(modules: Mapping[str, TargetModule]) -> str:
    served = [(path, module.shapes(1)) for path, module in sorted(modules.items()) if module.refusal is None]
    return hashlib.sha256(json.dumps(served).encode()).hexdigest()
