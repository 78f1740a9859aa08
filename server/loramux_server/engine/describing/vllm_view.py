"""The modules to which vLLM applies adapters: its own model and LoRA manager are asked, on the meta device."""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import (
    destroy_distributed_environment,
    destroy_model_parallel,
    ensure_model_parallel_initialized,
    init_distributed_environment,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.model_manager import LoRAModelManager
from vllm.model_executor.model_loader import get_model_architecture
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import ModelRegistry, supports_lora
from vllm.transformers_utils.config import get_config
from vllm.utils.torch_utils import set_default_torch_dtype

import loramux_server.engine.worker.extension  # noqa: F401 - what it changes in vLLM holds in the engine, too
from loramux_adapters.base_memory import BaseMemory
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.describing.memory_view import chosen_arguments, memory_view, with_slots

Rename = Callable[[str], str | None]
Shape = tuple[int, int]
"""Inputs and outputs."""
_FIXED = {
    "load_format": "dummy", "enforce_eager": True, "tensor_parallel_size": 1, "pipeline_parallel_size": 1,
    "max_loras": 1, "max_cpu_loras": None, "max_lora_rank": 16,
}  # fmt: skip
"""Arguments that change how a base is served, but not which of its modules can have adapters."""


def parse_arguments(folder: Path, name: str, options: Mapping[str, Any]) -> Namespace:
    """Return vLLM's arguments for the base in `folder`, without its weights.

    Raises:
        EngineArgumentError: vLLM or loramux refuses one of `options`.
    """
    arguments = engine_arguments(folder, name, options, enable_lora=False)
    vars(arguments).update(_FIXED)
    return arguments


def chosen_options(folder: Path, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `options` that decide what fits into a device's memory, as vLLM parses them."""
    return chosen_arguments(engine_arguments(folder, name, options, enable_lora=False), options)


def model_config(arguments: Namespace) -> ModelConfig:
    """Return what vLLM knows about the base from its config.json.

    Raises:
        ValueError: vLLM does not serve this base, or needs a package that is not installed.
    """
    try:
        return EngineArgs.from_cli_args(arguments).create_model_config()
    except ValueError:
        _check_packages(arguments)
        raise


@dataclass(frozen=True)
class VllmView:
    """What vLLM does with adapters of a base."""

    architecture: str
    refusal: str | None
    """Why it serves none."""
    applied: frozenset[str] = frozenset()
    """The modules that it adapts, by vLLM's names; those that it packs, by the names of the parts."""
    rename: Rename = str
    """Returns vLLM's name of a module in PEFT's files."""
    experts: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)
    """By the name of a module of experts: the shape of each expert's matrix, by its name from `experts` on."""
    memory: BaseMemory | None = None
    memory_problem: str | None = None
    """Why there is no `memory`."""


def vllm_view(arguments: Namespace, chosen: Mapping[str, Any]) -> VllmView:
    """Ask vLLM about the base, if it is started with `arguments`; `chosen` are the operator's own among them.

    Raises:
        Exception: vLLM does not serve this base.
    """
    model_class, architecture = get_model_architecture(model_config(arguments))
    has_adapters = supports_lora(model_class)
    adapted = Namespace(**(vars(arguments) | {"enable_lora": has_adapters}))
    config = EngineArgs.from_cli_args(adapted).create_engine_config()
    if not has_adapters:
        refusal = f"vLLM {vllm.__version__} serves {architecture} without adapters"
        return VllmView(architecture, refusal, **_memory_without_adapters(config, chosen))
    with _single_process(config):
        return _with_adapters(config, architecture, chosen)


def _check_packages(arguments: Namespace) -> None:
    """Import vLLM's class of the base: vLLM itself would only point at its log."""
    config = get_config(arguments.model, arguments.trust_remote_code)
    for architecture in config.architectures or ():
        if registered := ModelRegistry.models.get(architecture):
            try:
                registered.load_model_cls()
            except ModuleNotFoundError as error:
                raise ValueError(
                    f"vLLM's {architecture} needs the package {error.name}, which is not installed: "
                    f"pip install {error.name}, in the build for this machine's PyTorch"
                ) from error


def _build_model(config: VllmConfig) -> Any:
    """Return vLLM's model without weights, on the meta device if it can be built there."""
    with set_default_torch_dtype(config.model_config.dtype):
        try:
            with torch.device("meta"):
                return initialize_model(config)
        except NotImplementedError:  # it reads a value: in memory that is not written, and so takes no space
            config.compilation_config.static_forward_context.clear()  # the layers that were built already
            return initialize_model(config)


def _memory_without_adapters(config: VllmConfig, chosen: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with _single_process(config):
            return _memory(config, _build_model(config), chosen)
    except Exception as error:  # noqa: BLE001 - the base is served all the same
        return {"memory_problem": str(error)}


def _memory(config: VllmConfig, model: Any, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of VllmView about memory."""
    try:
        return {"memory": memory_view(config, model, chosen)}
    except Exception as error:  # noqa: BLE001 - the base is served all the same
        return {"memory_problem": str(error) or type(error).__name__}


def _with_adapters(config: VllmConfig, architecture: str, chosen: Mapping[str, Any]) -> VllmView:
    model = _build_model(config)
    memory = _memory(config, model, chosen)  # before the manager, which wraps the model's modules
    try:
        manager = LoRAModelManager(
            model, 1, 8, config.model_config.get_vocab_size(), config.lora_config, torch.device("cpu"), config
        )
    except Exception as error:  # noqa: BLE001 - it has no class for what it can't do
        problem = f"vLLM {vllm.__version__} can't apply adapters to {architecture} on this machine: {error}"
        return VllmView(architecture, problem, **memory)
    if "memory" in memory:
        memory["memory"] = with_slots(memory["memory"], manager.modules.values(), config.lora_config.max_lora_rank)
    applied = {part for name in manager.modules for part in manager.packed_modules.get(name, [name])}
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    rename = mapper.get_rename_mapper()._map_name if mapper else str
    experts = {name: dict(expert_shapes(name, manager)) for name in manager.modules if name.endswith(".experts")}
    return VllmView(architecture, None, frozenset(applied), rename, experts, **memory)


def expert_shapes(name: str, manager: Any) -> Iterator[tuple[str, Shape]]:
    """Yield the name, from `experts` on, and the shape of each matrix that vLLM adapts for each expert by itself."""
    if name not in manager.packed_modules:  # it adapts the matrices of all experts at once
        return
    module, prefix = manager.modules[name], name.removesuffix("experts")
    matrices = zip(module.lora_a_stacked, module.lora_b_stacked, strict=True)
    for part, (a, b) in zip(manager.packed_modules[name], matrices, strict=False):  # the others: other slots
        yield part.removeprefix(prefix), (a.shape[-1], b.shape[-2])


@contextmanager
def _single_process(config: VllmConfig) -> Iterator[None]:
    """Let vLLM build its layers in this process: they ask for the configuration and for the process groups."""
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
        try:
            ensure_model_parallel_initialized(1, 1)
            yield
        finally:
            destroy_model_parallel()
            destroy_distributed_environment()
