"""The device of a training run and how it saves memory there; GPU-10."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.errors import InsufficientMemory, TrainingError, UnusableBase
from loramux_adapters.finetuning.recipes.device_choice import DeviceChoice, choose_device
from loramux_adapters.finetuning.recipes.memory import MemoryStrategy
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.llama_bases import SMOL

DEMAND = MemoryDemand(SMOL, Recipe(batch_size=8), max_example_tokens=256, max_answer_tokens=100)
GPU = TrainingDevice("cuda:0", 0, bytes_per_parameter=2, can_load_in_4bit=True)
CPU = TrainingDevice("cpu", 1 << 40, bytes_per_parameter=4)
PLAIN = MemoryStrategy(8)
ORDER = [
    PLAIN,
    *(MemoryStrategy(size, gradient_checkpointing=True) for size in (8, 4, 2, 1)),
    MemoryStrategy(8, load_in_4bit=True),
    *(MemoryStrategy(size, gradient_checkpointing=True, load_in_4bit=True) for size in (8, 4, 2, 1)),
]


def with_room_for(strategy: MemoryStrategy, demand: MemoryDemand = DEMAND, **changes: Any) -> TrainingDevice:
    return replace(GPU, free_bytes=demand.required_bytes(GPU, strategy), **changes)


def test_precision_is_given_up_after_time_and_time_after_nothing() -> None:
    assert list(DEMAND.strategies(GPU, "auto")) == ORDER
    assert list(DEMAND.strategies(GPU, "never")) == ORDER[:5]
    assert list(DEMAND.strategies(GPU, "always")) == ORDER[5:]
    assert list(DEMAND.strategies(CPU, "auto")) == ORDER[:5]
    assert list(DEMAND.strategies(CPU, "always")) == []


def test_odd_batches_are_halved_rounded_up_and_a_single_example_is_not() -> None:
    sizes = [
        [one.micro_batch_size for one in replace(DEMAND, recipe=Recipe(batch_size=size)).strategies(CPU, "never")]
        for size in (7, 1)
    ]
    assert sizes == [[7, 7, 4, 2, 1], [1, 1]]


def test_an_architecture_without_checkpointing_has_micro_batches() -> None:
    demand = replace(DEMAND, can_checkpoint=False)
    assert list(demand.strategies(CPU, "auto")) == [MemoryStrategy(size) for size in (8, 4, 2, 1)]


@pytest.mark.parametrize("strategy", [*ORDER[:5], ORDER[-1]])
def test_the_first_strategy_that_fits_is_chosen(strategy: MemoryStrategy) -> None:
    choice = choose_device(DEMAND, [with_room_for(strategy), CPU], "auto")
    assert (choice.device.name, choice.strategy, choice.warning) == ("cuda:0", strategy, "")
    assert choice.required_bytes == choice.device.free_bytes


def test_the_plain_strategy_needs_no_reason() -> None:
    assert choose_device(DEMAND, [CPU], "auto") == DeviceChoice(CPU, PLAIN, DEMAND.required_bytes(CPU, PLAIN))


def test_a_reason_names_the_measures_and_the_memory() -> None:
    choice = choose_device(DEMAND, [with_room_for(MemoryStrategy(2, gradient_checkpointing=True))], "auto")
    assert choice.reason == (
        "gradient checkpointing and micro-batches of 2 of a batch's 8 examples: this needs about 0.8 GB of memory "
        "instead of 3.6 GB, and 0.8 GB are free"
    )


def test_a_gpu_on_which_nothing_fits_leads_to_the_cpu_with_a_warning() -> None:
    choice = choose_device(DEMAND, [replace(GPU, free_bytes=10**8), CPU], "auto")
    assert choice.device is CPU
    assert choice.warning == (
        "Training runs on cpu, which is slower: it needs at least 0.5 GB of memory on cuda:0 with the base in 4 bits, "
        "gradient checkpointing and one example of 256 tokens at a time; 0.1 GB are free there"
    )


def test_the_demos_job_trains_on_the_gpu_that_serves() -> None:
    """GPU-10: 0.92 of 24 GB are the engine's, and a context of CUDA takes half a gigabyte."""
    left = replace(GPU, free_bytes=int(24e9 * 0.08 - 0.5e9), can_load_in_4bit=False)
    choice = choose_device(DEMAND, [left, CPU], "auto")
    assert choice.device is left
    assert choice.strategy == MemoryStrategy(8, gradient_checkpointing=True)


def test_4_bits_can_be_forbidden_and_demanded() -> None:
    small = with_room_for(ORDER[-1])
    assert choose_device(DEMAND, [small, CPU], "never").device is CPU
    roomy = replace(GPU, free_bytes=1 << 40)
    always = choose_device(DEMAND, [roomy, CPU], "always")
    assert always.strategy == MemoryStrategy(8, load_in_4bit=True)
    assert always.reason == "the base in 4 bits (NF4), as training.quantize demands"


@pytest.mark.parametrize(
    ("demand", "devices", "reason"),
    [
        (DEMAND, [replace(GPU, can_load_in_4bit=False), CPU], "bitsandbytes is not installed"),
        (DEMAND, [CPU], "4 bits need a CUDA GPU"),
        (replace(DEMAND, is_quantized=True), [GPU], "set training.base"),
    ],
)
def test_demanded_4_bits_that_are_impossible_are_refused(
    demand: MemoryDemand, devices: list[TrainingDevice], reason: str
) -> None:
    with pytest.raises(UnusableBase, match=f"training.quantize is always, but .*{reason}"):
        choose_device(demand, devices, "always")


@pytest.mark.parametrize("packed", [None, 80_000_000])
def test_weights_that_are_quantized_already_are_not_quantized_again(packed: int | None) -> None:
    demand = replace(DEMAND, is_quantized=True, packed_weights_bytes=packed)
    assert not any(strategy.load_in_4bit for strategy in demand.strategies(GPU, "auto"))


def test_a_dequantized_base_that_fits_in_4_bits_only_trains_on_the_cpu() -> None:
    """GPU-10: transformers refuses bitsandbytes for weights in FP8, compressed-tensors or MXFP4."""
    demand, small = replace(DEMAND, is_quantized=True), with_room_for(ORDER[-1])
    assert choose_device(demand, [small, CPU], "auto").device is CPU
    with pytest.raises(InsufficientMemory, match=r"4 bits, .* \(training.base set to the unquantized base\)"):
        choose_device(demand, [small], "auto")


@given(
    free=st.integers(0, 10**11),
    cpu=st.integers(0, 10**11),
    can=st.booleans(),
    quantize=st.sampled_from(["auto", "never", "always"]),
    batch=st.integers(1, 100),
    tokens=st.integers(8, 10**5),
)
def test_what_is_chosen_fits_and_a_refusal_is_one_line(
    free: int, cpu: int, can: bool, quantize: Quantize, batch: int, tokens: int
) -> None:
    demand = MemoryDemand(SMOL, Recipe(batch_size=batch), tokens, max(1, tokens // 2))
    devices = [replace(GPU, free_bytes=free, can_load_in_4bit=can), replace(CPU, free_bytes=cpu)]
    try:
        choice = choose_device(demand, devices, quantize)
    except TrainingError as error:
        assert "\n" not in str(error)
        assert isinstance(error, InsufficientMemory) or (quantize == "always" and not can)
        return
    assert demand.required_bytes(choice.device, choice.strategy) == choice.required_bytes <= choice.device.free_bytes
    assert (choice.warning == "") == (choice.device is devices[0] or quantize == "always")
    assert (choice.reason == "") == (choice.strategy == MemoryStrategy(batch))
