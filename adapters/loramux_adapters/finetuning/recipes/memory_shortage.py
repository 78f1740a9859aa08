"""Says what would fit, when a training run does not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice

MIN_EXAMPLE_TOKENS = 8
"""Shorter examples are not suggested."""


def describe_need(demand: MemoryDemand, device: TrainingDevice, quantize: Quantize) -> str:
    """Return the smallest need on a device and its free memory, as a sentence."""
    strategy = demand.leanest(device, quantize)
    measures = ["the base in 4 bits"] if strategy.load_in_4bit else []
    measures += ["gradient checkpointing"] if strategy.gradient_checkpointing else []
    measures += [f"one example of {demand.max_example_tokens:,} tokens at a time"]
    required = demand.required_bytes(device, strategy)
    return (
        f"it needs at least {format_bytes(required)} of memory on {device.name} with {join(measures)}; "
        f"{format_bytes(device.free_bytes)} are free there"
    )


def describe_shortage(demand: MemoryDemand, devices: Sequence[TrainingDevice], quantize: Quantize) -> str:
    """Return why the training fits on none of `devices`, and what would fit, in one line."""
    needs = ". Also, ".join(describe_need(demand, device, quantize) for device in devices)
    return f"the training does not fit: {needs}. {describe_options(demand, devices, quantize)}"


def describe_options(demand: MemoryDemand, devices: Sequence[TrainingDevice], quantize: Quantize) -> str:
    """Return what would fit on one of `devices`, as a sentence."""
    options = [option for device in devices for option in _options(demand, device, quantize)]
    return f"What would fit: {', or '.join(dict.fromkeys([*options, 'another device']))}"


def _options(demand: MemoryDemand, device: TrainingDevice, quantize: Quantize) -> Iterator[str]:
    def fits(changed: MemoryDemand) -> bool:
        return changed.required_bytes(device, changed.leanest(device, quantize)) <= device.free_bytes

    longest = demand.max_example_tokens
    if tokens := _largest(MIN_EXAMPLE_TOKENS, longest - 1, lambda n: fits(demand.with_examples_of(n))):
        yield f"examples of at most {tokens:,} tokens on {device.name}"
    layers = min(demand.recipe.last_layers or demand.base.spec.num_hidden_layers, demand.base.spec.num_hidden_layers)
    if last := _largest(1, layers - 1, lambda n: fits(demand.with_last_layers(n))):
        yield f"adapters in the last {last} layers only (last_layers) on {device.name}"
    if device.is_gpu:
        yield from _options_of_gpu(demand, device, quantize)


def _options_of_gpu(demand: MemoryDemand, device: TrainingDevice, quantize: Quantize) -> Iterator[str]:
    if not demand.leanest(device, quantize).load_in_4bit:
        able, unquantized = replace(device, can_load_in_4bit=True), demand.with_unquantized_base()
        required = unquantized.required_bytes(able, unquantized.leanest(able, "auto"))
        if required <= device.free_bytes:
            how = join(list(_missing_for_4bit(demand, device, quantize)))
            yield f"the base in 4 bits, {format_bytes(required)} ({how})"
    yield "a lower gpu_memory_utilization of the engine, or training.sleep, by which it frees its memory"


def _missing_for_4bit(demand: MemoryDemand, device: TrainingDevice, quantize: Quantize) -> Iterator[str]:
    if demand.is_quantized:
        yield "training.base set to the unquantized base"
    if quantize == "never":
        yield "training.quantize=auto"
    if not device.can_load_in_4bit:
        yield "bitsandbytes installed"


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest number from `low` to `high` that fits, if smaller ones fit too; None if none does."""
    if low > high or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def join(parts: Sequence[str]) -> str:
    """Return an enumeration: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def format_bytes(size: int) -> str:
    """Return a size in gigabytes."""
    return f"{size / 1e9:.1f} GB"
