"""Joins PEFT's view of a base with vLLM's: which of the modules that PEFT can adapt vLLM applies adapters to."""

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.errors import UnsupportedBase
from loramux_adapters.models import BaseSpec
from loramux_server.engine.describing.peft_view import build_model, peft_modules
from loramux_server.engine.describing.vllm_view import VllmView, vllm_view


def describe(folder: Path, name: str, options: Mapping[str, Any], versions: Mapping[str, str]) -> BaseDescription:
    """Return the description of the base in `folder`, which is served as `name` with vLLM's `options`.

    Raises:
        Exception: any error of the libraries, for a base that vLLM does not serve.
    """
    modules: dict[str, TargetModule] = {}
    refusal = None
    try:  # before vLLM's view, which changes classes of transformers
        modules = peft_modules(folder)
        parameters = sum(prod(parameter.shape) for parameter in build_model(folder).parameters())
    except UnsupportedBase as error:
        refusal, parameters = f"{error.message}, so PEFT makes no adapters of it", 1
    view = vllm_view(folder, options)
    refusal = view.refusal or refusal
    modules = {path: _with_refusal(path, module, view) for path, module in modules.items()} | _experts(modules, view)
    if not refusal and all(module.refusal for module in modules.values()):
        refusal = f"vLLM applies adapters to no module of {view.architecture}"
    spec = _spec(folder, name, view.architecture, modules)
    return BaseDescription.of(modules, spec=spec, parameters=parameters, refusal=refusal, versions=versions)


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


def _spec(folder: Path, name: str, architecture: str, modules: Mapping[str, TargetModule]) -> BaseSpec:
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    served = [(path, module.shapes(1)) for path, module in sorted(modules.items()) if module.refusal is None]
    return BaseSpec(
        name=name,
        architecture=architecture,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        modules_digest=hashlib.sha256(json.dumps(served).encode()).hexdigest(),
    )
