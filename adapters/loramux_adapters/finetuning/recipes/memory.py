"""What a training needs of memory, against what is free: refused before the base is loaded, instead of killed later."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from loramux_adapters.finetuning.errors import TooLittleMemory
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.models import BaseSpec

LOGITS_AT_ONCE = 1024
"""Of so many tokens the trainer holds the scores over the whole vocabulary at a time."""
_MARGIN = 1.15
_WORKSPACE = 256 << 20  # bytes that the libraries take for themselves
_OPTIMIZER_BYTES = 16  # for each trained parameter: itself, its gradient and AdamW's two moments, in float32
_LOGIT_BYTES = 12  # for each score: itself, its gradient and the softmax between, in float32
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Load:
    """What is to be held: the base's parameters, each of `bytes_each` bytes, and a batch of the longest examples.

    `longest` counts the tokens of an example with its prompt, `answer` those that are learned of one.
    """

    parameters: int
    bytes_each: int
    longest: int
    answer: int


def needed(base: BaseSpec, recipe: Recipe, load: Load) -> int:
    """Return the bytes that training takes at its peak, rather too many than too few.

    The layers below the first one with an adapter keep nothing for a backward pass, the others what their modules were
    given: counted on Llama's layers with adapters on all modules, in float32 and in mixed precision.
    """
    layers = recipe.last_layers or base.num_hidden_layers
    tokens, learned = recipe.batch_size * load.longest, recipe.batch_size * load.answer
    kept = 8 * base.hidden_size + 4 * base.num_key_value_heads * base.head_dim + 4 * base.intermediate_size
    activations = tokens * layers * kept * (load.bytes_each + 4) // 2
    logits = min(learned, LOGITS_AT_ONCE) * base.vocab_size * _LOGIT_BYTES
    weights = load.parameters * load.bytes_each
    optimizer = adapter_parameters(base, recipe) * _OPTIMIZER_BYTES
    return int(_MARGIN * (weights + activations + logits + optimizer)) + _WORKSPACE


def adapter_parameters(base: BaseSpec, recipe: Recipe) -> int:
    """Return how many parameters are trained."""
    layer = sum(sum(base.module_shape(module)) for module in recipe.target_modules)
    return (recipe.last_layers or base.num_hidden_layers) * layer * recipe.rank


def refuse_if_short(need: int, free: int, recipe: Recipe, device: str) -> None:
    """Raise TooLittleMemory if `need` bytes are not free on the device."""
    if need <= free:
        return
    beside = ", a lower gpu_memory_utilization of the engine" if device.startswith("cuda") else ""
    raise TooLittleMemory(
        f"training needs about {_gigabytes(need)} of memory, and {_gigabytes(free)} are free on {device}: take a "
        f"smaller batch_size (now {recipe.batch_size}), shorter examples, fewer last_layers{beside}, or another device"
    )


def free_on_cpu(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that a process may still take: of the machine's, and of its container's if there is a limit."""
    available = psutil.virtual_memory().available
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return min(available, max(0, limit - used + int(facts["inactive_file"])))  # the cache makes room
    except (OSError, ValueError, KeyError):
        return available  # no limit, or no cgroups


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
