"""Batches in parts, and which errors mean that memory ran out; GPU-10."""

import pytest
import torch

from loramux_adapters.finetuning.trainer.micro_batches import is_out_of_memory, split_batch

pytestmark = pytest.mark.slow  # imports torch and accelerate


def batch(*lengths: int) -> dict[str, torch.Tensor]:
    mask = torch.tensor([[int(place < length) for place in range(max(lengths))] for length in lengths])
    ids = torch.arange(mask.numel()).reshape(mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids - 1}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_the_parts_of_a_batch_have_all_of_its_tokens_and_little_padding(size: int) -> None:
    lengths = (3, 7, 2, 5, 4)
    whole = batch(*lengths)
    parts = list(split_batch(whole, size))
    assert [len(part["input_ids"]) for part in parts] == [len(lengths[at : at + size]) for at in range(0, 5, size)]
    for number, part in enumerate(parts):
        own = lengths[number * size : (number + 1) * size]
        assert part["input_ids"].shape[1] == max(own)
        for name, tensor in part.items():
            assert torch.equal(tensor, whole[name][number * size : (number + 1) * size, : max(own)])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:20],
)
def test_allocations_that_failed_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(12, "x"), KeyboardInterrupt()]
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(Exception, match=r".+") as failed:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)
