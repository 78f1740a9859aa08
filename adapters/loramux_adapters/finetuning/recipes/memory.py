"""Estimates the memory of a training run, to refuse one that can't fit before its base is loaded."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from loramux_adapters.base_description import BaseDescription, layer_of
from loramux_adapters.finetuning.errors import InsufficientMemory
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.recipes.trained_modules import trained_modules

LOGITS_CHUNK_TOKENS = 1024
"""Tokens whose logits over the whole vocabulary the trainer holds at a time."""
_MARGIN = 1.15
_WORKSPACE = 256 << 20  # bytes that the libraries allocate for themselves
_OPTIMIZER_BYTES = 16  # per trained parameter: itself, its gradient and AdamW's two moments, in float32
_LOGIT_BYTES = 12  # per logit: itself, its gradient and the softmax between, in float32
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class TrainingSize:
    """The quantities that decide the memory of a training run.

    `max_example_tokens` counts the tokens of the longest example with its prompt, `max_answer_tokens` those of the
    longest answer.
    """

    parameters: int
    bytes_per_parameter: int
    max_example_tokens: int
    max_answer_tokens: int


def required_bytes(base: BaseDescription, recipe: Recipe, size: TrainingSize) -> int:
    """Return an upper estimate of the bytes that training needs at its peak.

    Layers below the first one with an adapter store nothing for the backward pass, the others about two values per
    output of a module and two per token's state: counted on Llama's layers with adapters on all modules, in float32
    and in mixed precision.
    """
    layers = recipe.last_layers or base.spec.num_hidden_layers
    first = base.spec.num_hidden_layers - layers
    outputs = sum(module.outputs for path, module in base.linear.items() if (layer_of(path) or 0) >= first)
    tokens, answer_tokens = recipe.batch_size * size.max_example_tokens, recipe.batch_size * size.max_answer_tokens
    stored = 2 * (outputs + layers * base.spec.hidden_size)
    activations = tokens * stored * (size.bytes_per_parameter + 4) // 2
    logits = min(answer_tokens, LOGITS_CHUNK_TOKENS) * base.spec.vocab_size * _LOGIT_BYTES
    weights = size.parameters * size.bytes_per_parameter
    optimizer = count_adapter_parameters(base, recipe) * _OPTIMIZER_BYTES
    return int(_MARGIN * (weights + activations + logits + optimizer)) + _WORKSPACE


def count_adapter_parameters(base: BaseDescription, recipe: Recipe) -> int:
    """Return the number of trained parameters."""
    return recipe.rank * sum(module.inputs + module.outputs for module in trained_modules(base, recipe).values())


def check_memory(required: int, free: int, recipe: Recipe, device: str) -> None:
    """Check that `required` bytes are free on the device.

    Raises:
        InsufficientMemory: they are not.
    """
    if required <= free:
        return
    engine = ", a lower gpu_memory_utilization of the engine" if device.startswith("cuda") else ""
    raise InsufficientMemory(
        f"training needs about {_gigabytes(required)} of memory, and {_gigabytes(free)} are free on {device}: use a "
        f"smaller batch_size (now {recipe.batch_size}), shorter examples, fewer last_layers{engine}, or another device"
    )


def free_cpu_memory(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that a process may still allocate: of the machine, and of its container if that has a limit."""
    available = psutil.virtual_memory().available
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        # The kernel reclaims the page cache when memory runs short.
        return min(available, max(0, limit - used + int(statistics["inactive_file"])))
    except (OSError, ValueError, KeyError):
        return available  # no limit, or no cgroups


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
