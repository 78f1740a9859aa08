"""Lets the adapters of the right requests change the logits of prompts, whose log-probabilities a request can ask for.

An adapter of the language model's head changes logits. vLLM has one row of logits per request and knows the adapter of
each row. For the log-probabilities of a prompt it computes more rows, one per token of one prompt, without saying so:
they got the adapters of other requests, or stopped the engine.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def install_prompt_slots() -> None:
    """Make vLLM's model runner for a CPU use the slot of each prompt's tokens for its logits."""
    CPUModelRunner._get_prompt_logprobs_dict = _prompt_logprobs


def _prompt_logprobs(runner: Any, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> Any:
    head = _adapted_head(runner) if runner.num_prompt_logprobs else None
    with _token_slots(runner.model, head.punica_wrapper, hidden_states) if head else nullcontext():
        return GPUModelRunner._get_prompt_logprobs_dict(runner, hidden_states, num_scheduled_tokens)


def _adapted_head(runner: Any) -> Any:
    """Return the layer that computes logits with adapters; None if adapters can't change the head of this base."""
    manager = getattr(runner.model, "lora_manager", None)
    layers = () if manager is None else manager.modules.values()  # without adapters, a manager is false
    return next((layer for layer in layers if isinstance(layer, LogitsProcessorWithLoRA)), None)


@contextmanager
def _token_slots(model: Any, wrapper: Any, hidden_states: torch.Tensor) -> Iterator[None]:
    """Within the context, `model.compute_logits` takes consecutive rows of `hidden_states`, each with its own slot."""
    compute: Callable[[torch.Tensor], torch.Tensor] = model.compute_logits
    requests, tokens = wrapper.sampler_indices.clone(), wrapper.token_lora_indices

    def compute_logits(rows: torch.Tensor) -> torch.Tensor:
        first = (rows.storage_offset() - hidden_states.storage_offset()) // hidden_states.stride(0)
        _set_slots(wrapper, tokens[first : first + len(rows)])
        return compute(rows)

    model.compute_logits = compute_logits
    try:
        yield
    finally:
        del model.compute_logits
        _set_slots(wrapper, requests)


def _set_slots(wrapper: Any, slots: torch.Tensor) -> None:
    """Set the slot of each row of logits, as vLLM's wrapper for a CPU keeps it."""
    wrapper._sampler_indices[: len(slots)].copy_(slots)
    wrapper.indices_len[1] = len(slots)
