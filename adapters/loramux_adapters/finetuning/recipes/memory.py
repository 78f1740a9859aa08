"""Estimates the memory of a training run, to refuse one that can't fit before its base is loaded."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from loramux_adapters.base_description import BaseDescription, layer_of
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.recipes.trained_modules import trained_modules

LOGITS_CHUNK_TOKENS = 1024
"""Tokens whose logits over the whole vocabulary the trainer holds at a time."""
_MARGIN = 1.15
_WORKSPACE = 256 << 20  # bytes that the libraries allocate for themselves
_OPTIMIZER_BYTES = 16  # per trained parameter: itself, its gradient and AdamW's two moments, in float32
_LOGIT_BYTES = 12  # per logit: itself, its gradient and the softmax between, in float32
_NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Per weight: itself, its share of the 8-bit scale of 64 weights, and of the 32-bit scale of 256 such scales."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class TrainingSize:
    """The quantities that decide the memory of a training run.

    `max_example_tokens` counts the tokens of the longest example with its prompt, `max_answer_tokens` those of the
    longest answer. `packed_weights_bytes` is the size of a base whose weights stay quantized while it is trained on;
    None if they are loaded with `bytes_per_parameter`.
    """

    parameters: int
    bytes_per_parameter: int
    max_example_tokens: int
    max_answer_tokens: int
    packed_weights_bytes: int | None = None


@dataclass(frozen=True)
class MemoryStrategy:
    """How a training run saves memory: at the cost of time, and with 4 bits of the base's precision.

    Gradient checkpointing computes the activations of a layer twice instead of keeping them, and micro-batches are
    parts of a batch whose gradients are added up: both change a result by rounding only.
    """

    micro_batch_size: int
    """Examples that are computed at a time; the recipe's batch size, or less."""
    gradient_checkpointing: bool = False
    load_in_4bit: bool = False
    """Whether the base's linear modules are held in bitsandbytes' NF4."""


def leanest_strategy(*, load_in_4bit: bool = False, gradient_checkpointing: bool = True) -> MemoryStrategy:
    """Return the strategy with the smallest need."""
    return MemoryStrategy(1, gradient_checkpointing, load_in_4bit)


def required_bytes(
    base: BaseDescription, recipe: Recipe, size: TrainingSize, strategy: MemoryStrategy | None = None
) -> int:
    """Return an upper estimate of the bytes that training needs at its peak; without a strategy, for whole batches.

    Layers below the first one with an adapter store nothing for the backward pass, the others about two values per
    output of a module and two per token's state: counted on Llama's layers with adapters on all modules, in float32
    and in mixed precision. With gradient checkpointing they store their input, and one layer at a time the rest.
    An example of DPO is two answers with their prompts; the reference's pass stores nothing.
    """
    strategy = strategy or MemoryStrategy(recipe.batch_size)
    examples = min(strategy.micro_batch_size, recipe.batch_size) * (2 if recipe.is_dpo else 1)
    activations = examples * size.max_example_tokens * _activation_bytes_per_token(base, recipe, size, strategy)
    logits = min(examples * size.max_answer_tokens, LOGITS_CHUNK_TOKENS) * base.spec.vocab_size * _LOGIT_BYTES
    optimizer = count_adapter_parameters(base, recipe) * _OPTIMIZER_BYTES
    return int(_MARGIN * (_weights_bytes(base, size, strategy) + activations + logits + optimizer)) + _WORKSPACE


def _activation_bytes_per_token(
    base: BaseDescription, recipe: Recipe, size: TrainingSize, strategy: MemoryStrategy
) -> int:
    layers = min(recipe.last_layers or base.spec.num_hidden_layers, base.spec.num_hidden_layers)
    first = base.spec.num_hidden_layers - layers
    outputs: Counter[int] = Counter()
    for path, module in base.linear.items():
        outputs[layer_of(path) or 0] += module.outputs
    value_bytes = size.bytes_per_parameter + 4  # of a pair: one in the base's dtype, one in float32
    if strategy.gradient_checkpointing:
        inputs = layers * base.spec.hidden_size * size.bytes_per_parameter
        largest = max((count for layer, count in outputs.items() if layer >= first), default=0)
        return inputs + (largest + base.spec.hidden_size) * value_bytes
    stored = sum(count for layer, count in outputs.items() if layer >= first) + layers * base.spec.hidden_size
    return stored * value_bytes


def _weights_bytes(base: BaseDescription, size: TrainingSize, strategy: MemoryStrategy) -> float:
    if not strategy.load_in_4bit:
        packed = size.packed_weights_bytes
        return size.parameters * size.bytes_per_parameter if packed is None else packed
    modules = [module for module in base.modules.values() if module.kind == "linear" and not module.parameter]
    counts = [module.inputs * module.outputs for module in modules if not module.is_head and not module.is_expert]
    in_4bit = min(sum(counts), size.parameters)
    others = (size.parameters - in_4bit) * size.bytes_per_parameter
    # One module at a time is dequantized.
    return in_4bit * _NF4_BITS / 8 + others + max(counts, default=0) * size.bytes_per_parameter


def count_adapter_parameters(base: BaseDescription, recipe: Recipe) -> int:
    """Return the number of trained parameters."""
    return recipe.rank * sum(module.inputs + module.outputs for module in trained_modules(base, recipe).values())


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
