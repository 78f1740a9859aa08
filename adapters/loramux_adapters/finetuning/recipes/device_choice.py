"""Chooses the device of a training run and how it saves memory there, and says why."""

from collections.abc import Sequence
from dataclasses import dataclass

from loramux_adapters.finetuning.errors import InsufficientMemory, UnusableBase
from loramux_adapters.finetuning.recipes.memory import MemoryStrategy
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.memory_shortage import describe_need, describe_shortage, format_bytes, join


@dataclass(frozen=True)
class DeviceChoice:
    """The device and the strategy of a training run."""

    device: TrainingDevice
    strategy: MemoryStrategy
    required_bytes: int
    reason: str = ""
    """Why the strategy is not the plain one; empty if it is."""
    warning: str = ""
    """Why a device that would have been preferred is not used; empty if it is."""


def choose_device(demand: MemoryDemand, devices: Sequence[TrainingDevice], quantize: Quantize) -> DeviceChoice:
    """Return the first of `devices` on which the training fits in some way, with the first strategy that fits there.

    Raises:
        InsufficientMemory: it fits on none; the message says what would fit.
        UnusableBase: the base has to be quantized, and no device can do it.
    """
    able = [device for device in devices if next(demand.strategies(device, quantize), None)]
    if not able:
        raise UnusableBase(_why_not_in_4bit(demand, devices))
    for number, device in enumerate(able):
        for strategy in demand.strategies(device, quantize):
            required = demand.required_bytes(device, strategy)
            if required <= device.free_bytes:
                reason = _reason(demand, device, strategy, required, quantize)
                return DeviceChoice(
                    device, strategy, required, reason, _warning(demand, able[:number], device, quantize)
                )
    raise InsufficientMemory(describe_shortage(demand, able, quantize))


def expect_device(demand: MemoryDemand, devices: Sequence[TrainingDevice], quantize: Quantize) -> DeviceChoice | None:
    """Return what the trainer will choose if the memory stays as it is; None if the training fits on no known device.

    Raises:
        UnusableBase: the base has to be quantized, and no device can do it.
    """
    try:
        return choose_device(demand, devices, quantize) if devices else None
    except InsufficientMemory:  # the trainer will say so, if it is still so
        return None


def _reason(
    demand: MemoryDemand, device: TrainingDevice, strategy: MemoryStrategy, required: int, quantize: Quantize
) -> str:
    measures = describe_strategy(strategy, demand.recipe.batch_size)
    if not measures:
        return ""
    first = next(demand.strategies(device, quantize))
    if strategy == first:
        return f"{measures}, as training.quantize demands"
    before = demand.required_bytes(device, first)
    return (
        f"{measures}: this needs about {format_bytes(required)} of memory instead of {format_bytes(before)}, and "
        f"{format_bytes(device.free_bytes)} are free"
    )


def _warning(
    demand: MemoryDemand, skipped: Sequence[TrainingDevice], chosen: TrainingDevice, quantize: Quantize
) -> str:
    if not skipped:
        return ""
    slow = "" if chosen.is_gpu else ", which is slower"
    return f"Training runs on {chosen.name}{slow}: {describe_need(demand, skipped[0], quantize)}"


def describe_strategy(strategy: MemoryStrategy, batch_size: int) -> str:
    """Return the measures that save memory, as part of a sentence; empty for the plain strategy."""
    measures = []
    if strategy.load_in_4bit:
        measures.append("the base in 4 bits (NF4)")
    if strategy.gradient_checkpointing:
        measures.append("gradient checkpointing")
    if strategy.micro_batch_size < batch_size:
        measures.append(f"micro-batches of {strategy.micro_batch_size} of a batch's {batch_size} examples")
    return join(measures)


def _why_not_in_4bit(demand: MemoryDemand, devices: Sequence[TrainingDevice]) -> str:
    if demand.is_quantized:
        reason = "the base's weights are quantized already: set training.base to the unquantized base"
    elif any(device.is_gpu for device in devices):
        reason = "bitsandbytes is not installed: `pip install bitsandbytes`"
    else:
        reason = "4 bits need a CUDA GPU: set it to auto or never"
    return f"training.quantize is always, but {reason}"
