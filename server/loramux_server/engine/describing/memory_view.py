"""What serving a base takes of a device's memory: vLLM's own model, attention layers and LoRA slots are asked."""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from transformers.quantizers.auto import AutoQuantizationConfig
from vllm.config import VllmConfig
from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.model_executor.layers.linear import LinearBase

from loramux_adapters.base_memory import BaseMemory

ARGUMENTS = (
    "cpu_offload_gb", "dtype", "enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_cpu_loras",
    "max_lora_rank", "max_loras", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size",
    "tensor_parallel_size",
)  # fmt: skip
"""The engine arguments that decide what fits."""


def chosen_arguments(arguments: Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the operator's `options` that decide what fits, as vLLM parsed them."""
    return {name: vars(arguments)[name] for name in ARGUMENTS if options.get(name, "auto") != "auto"}


def memory_view(config: VllmConfig, model: Any, chosen: Mapping[str, Any]) -> BaseMemory:
    """Return what `model` takes, which was built with `config` in this process and has no adapters yet.

    Raises:
        Exception: vLLM can't say.
    """
    # vLLM 0.26 lacks what this imports.
    from loramux_server.engine.describing.kv_cache_view import kv_cache_parts, request_samples

    quantization, model_config = config.quant_config, config.model_config
    max_context, wanted = model_config.get_and_verify_max_len(None), model_config.max_model_len
    try:
        samples = request_samples(config, max(max_context, wanted))
    finally:
        model_config.max_model_len = wanted
    return BaseMemory(
        weight_bytes=_size([*model.parameters(), *model.buffers()]),
        dtype=str(model_config.dtype).removeprefix("torch."),
        quantization=model_config.quantization,
        is_quantized_on_load=bool(quantization) and model_config.model_arch_config.quantization_config is None,
        can_dequantize=can_dequantize(getattr(model_config.hf_config, "quantization_config", None)),
        min_capability=quantization.get_min_capability() if quantization else None,
        values_per_token=max(_values_per_token(model), default=model_config.get_hidden_size()),
        max_context=max_context,
        request_samples=samples,
        kv_cache_parts=kv_cache_parts(config),
        arguments=chosen,
    )


def can_dequantize(quantization: Any) -> bool:
    """Whether transformers dequantizes weights of this `quantization_config` of a config.json while it loads them."""
    try:
        return hasattr(AutoQuantizationConfig.from_dict(dict(quantization)), "dequantize")
    except Exception:  # noqa: BLE001 - there is none, or transformers does not know it
        return False


def with_slots(memory: BaseMemory, modules: Iterable[Any], rank: int) -> BaseMemory:
    """Return `memory` with the size of slots, those of the LoRA `modules` of vLLM, which has made one of `rank`."""
    tensors: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for module in modules:
        tensors[isinstance(module, LogitsProcessorWithLoRA)].extend(_slot_tensors(module))
    slot, head = _size(tensors[False]) // rank, _size(tensors[True]) // rank
    return memory.model_copy(update={"slot_bytes_per_rank": slot, "head_slot_bytes_per_rank": head})


def _slot_tensors(module: Any) -> Iterator[torch.Tensor]:
    for value in vars(module).values():
        tensors = value if isinstance(value, tuple | list) else (value,)
        yield from (tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor._base is None)


def _size(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of all distinct tensors: tied weights and shared buffers are in several modules."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _values_per_token(model: Any) -> Iterator[int]:
    """Yield how many values per token a step holds around each linear layer, or around routed experts.

    These are the layer's inputs and outputs, and the activation function's outputs, which are half of them.
    """
    for module in model.modules():
        if isinstance(module, LinearBase):
            yield module.input_size + module.output_size * 3 // 2
        elif inner := getattr(module, "intermediate_size_per_partition", None):
            yield (getattr(module, "top_k", None) or 1) * (module.hidden_size + 3 * inner)
