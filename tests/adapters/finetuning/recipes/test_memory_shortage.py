"""What would fit where a training does not; GPU-10."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.errors import InsufficientMemory
from loramux_adapters.finetuning.recipes.device_choice import choose_device
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.memory_shortage import describe_shortage
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.llama_bases import SMOL

DEMAND = MemoryDemand(SMOL, Recipe(batch_size=8), max_example_tokens=8192, max_answer_tokens=4000)
GPU = TrainingDevice("cuda:1", 1_500_000_000, bytes_per_parameter=2)
CPU = TrainingDevice("cpu", 2_000_000_000, bytes_per_parameter=4)


def test_a_refusal_names_needs_free_memory_and_what_would_fit() -> None:
    message = describe_shortage(DEMAND, [GPU], "auto")
    assert message.startswith(
        "the training does not fit: it needs at least 2.0 GB of memory on cuda:1 with gradient checkpointing and one "
        "example of 8,192 tokens at a time; 1.5 GB are free there. What would fit: examples of at most 2,"
    )
    assert message.endswith("or training.sleep, by which it frees its memory, or another device")
    assert ", or a lower gpu_memory_utilization of the engine, " in message
    assert "\n" not in message


def test_a_refusal_on_a_cpu_does_not_mention_the_gpu_and_4_bits() -> None:
    assert not re.search("gpu|4 bits", describe_shortage(DEMAND, [CPU], "auto"))


def test_every_device_that_was_tried_is_named() -> None:
    message = describe_shortage(DEMAND, [GPU, CPU], "auto")
    assert "on cuda:1 with" in message
    assert "Also, it needs at least" in message
    assert "on cpu with" in message


@pytest.mark.parametrize(
    ("can", "is_quantized", "quantize", "how"),
    [
        (False, False, "auto", "bitsandbytes installed"),
        (True, False, "never", "training.quantize=auto"),
        (False, False, "never", "training.quantize=auto and bitsandbytes installed"),
        (True, True, "auto", "training.base set to the unquantized base"),
        (True, True, "never", "training.base set to the unquantized base and training.quantize=auto"),
    ],
)
def test_4_bits_are_offered_where_they_would_help_with_all_that_they_take(
    can: bool, is_quantized: bool, quantize: Quantize, how: str
) -> None:
    demand = replace(DEMAND, max_example_tokens=512, max_answer_tokens=100, is_quantized=is_quantized)
    need = demand.required_bytes(GPU, demand.leanest(GPU, "auto"))
    message = describe_shortage(demand, [replace(GPU, free_bytes=need - 1000, can_load_in_4bit=can)], quantize)
    assert f"the base in 4 bits, 0.6 GB ({how})" in message


@given(free=st.integers(200 << 20, 3 << 30), tokens=st.integers(9, 20_000))
def test_what_is_said_to_fit_does_fit(free: int, tokens: int) -> None:
    demand = replace(DEMAND, max_example_tokens=tokens, max_answer_tokens=tokens)
    device = replace(CPU, free_bytes=free)
    message = ""
    try:
        choose_device(demand, [device], "auto")
    except InsufficientMemory as error:
        message = str(error)
    if found := re.search(r"examples of at most ([\d,]+) tokens", message):
        most = int(found[1].replace(",", ""))
        choose_device(demand.with_examples_of(most), [device], "auto")
        with pytest.raises(InsufficientMemory):
            choose_device(demand.with_examples_of(most + 1), [device], "auto")
    if found := re.search(r"adapters in the last (\d+) layers", message):
        choose_device(demand.with_last_layers(int(found[1])), [device], "auto")
