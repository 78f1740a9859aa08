"""LoRA products on a CPU, compared with the formula token by token."""

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from loramux_server.engine.worker import cpu_lora
from loramux_server.engine.worker.cpu_lora import CpuPunicaWrapper

SLOTS, RANK, INPUTS = 3, 4, 10
SLICES = (6, 2, 2)


def products(
    wrapper: type,
    slots: list[int],
    *,
    is_prefill: bool,
    broken: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the wrapper adds for tokens of these slots (-1 is the base), and the expected sum.

    The products of the `broken` slot are infinite.
    """
    random = torch.Generator().manual_seed(7)
    a = tuple(torch.randn(SLOTS, 1, RANK, INPUTS, generator=random).to(dtype) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK, generator=random).to(dtype) for width in SLICES)
    x = torch.randn(len(slots), INPUTS, generator=random).to(dtype)
    if broken is not None:
        for part in a:
            part[broken] = torch.finfo(dtype).max
    punica = wrapper(max_num_batched_tokens=64, max_batches=8, device="cpu")
    numbers = [slot + 1 for slot in slots]  # adapter n lies in slot n - 1, and 0 is the base
    mapping = LoRAMapping(index_mapping=tuple(numbers), prompt_mapping=tuple(numbers), is_prefill=is_prefill)
    punica.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    found, expected = torch.zeros(len(slots), sum(SLICES), dtype=dtype), torch.zeros(len(slots), sum(SLICES))
    punica.add_lora_linear(found, x, a, b, 0.5, SLICES)
    for token, slot in enumerate(slots):
        if slot >= 0:
            whole = [(a[part][slot, 0].float().T, b[part][slot, 0].float().T) for part in range(len(SLICES))]
            expected[token] = torch.cat([0.5 * (x[token].float() @ narrow) @ wide for narrow, wide in whole])
    return found.float(), expected


@pytest.mark.parametrize("is_prefill", [False, True])
@pytest.mark.parametrize("few", [0, 1, 2, 8])
@pytest.mark.parametrize(
    "slots", [[0], [2, 2, 2], [0, 1, 2, 0], [-1], [-1, -1], [-1, 2, -1, 0, 2, -1], [1, -1, -1, -1]]
)
def test_each_token_gets_its_own_adapter_and_the_base_gets_none(
    slots: list[int], is_prefill: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_lora, "MAX_KERNEL_TOKENS", few)
    found, expected = products(CpuPunicaWrapper, slots, is_prefill=is_prefill)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("few", [0, 2, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_precision_is_served(dtype: torch.dtype, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_lora, "MAX_KERNEL_TOKENS", few)
    found, expected = products(CpuPunicaWrapper, [0, 1, 1, 1, -1, 2], is_prefill=True, dtype=dtype)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("slots", [[1, 1, 1, -1, 0, 2], [-1, 1, 0], [1, 1, -1]])
def test_an_adapter_whose_products_are_infinite_changes_no_other_token(
    slots: list[int], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_lora, "MAX_KERNEL_TOKENS", few)
    found, expected = products(CpuPunicaWrapper, slots, is_prefill=True, broken=1)
    sound = [token for token, slot in enumerate(slots) if slot != 1]
    torch.testing.assert_close(found[sound], expected[sound], rtol=1e-4, atol=1e-4)


def test_what_is_written_into_a_slot_later_counts() -> None:
    a, b = (torch.zeros(SLOTS, 1, RANK, INPUTS),), (torch.zeros(SLOTS, 1, INPUTS, RANK),)
    x, found = torch.ones(1, INPUTS), torch.zeros(1, INPUTS)
    punica = CpuPunicaWrapper(max_num_batched_tokens=64, max_batches=8, device="cpu")
    punica.update_metadata(LoRAMapping((2,), (2,), is_prefill=False), [1, 2, 3], SLOTS, 100)
    punica.add_lora_linear(found, x, a, b, 1.0, (INPUTS,))
    assert not found.any()
    a[0][1, 0, :2, :] = 1
    b[0][1, 0, :, :2] = 1
    punica.add_lora_linear(found, x, a, b, 1.0, (INPUTS,))
    assert found.tolist() == [[2.0 * INPUTS] * INPUTS]


def test_vllms_own_wrapper_still_applies_the_last_slot_to_the_base() -> None:
    """If this fails, vLLM has fixed it, and engine/worker/cpu_lora.py is needed only for its speed."""
    found, expected = products(PunicaWrapperCPU, [-1, -1], is_prefill=False)
    assert not torch.allclose(found, expected)
