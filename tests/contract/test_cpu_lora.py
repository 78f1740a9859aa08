"""LoRA products on a CPU, compared with the formula token by token."""

from typing import Any

import pytest
import torch
from vllm import version
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from loramux_server.engine.worker import cpu_lora
from loramux_server.engine.worker.cpu_lora import CpuPunicaWrapper

SLOTS, RANK, INPUTS, VOCABULARY = 3, 4, 10, 20
SLICES = (6, 2, 2)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def wrapper_of(wrapper: type, slots: list[int], *, rows: list[int] | None = None, is_prefill: bool = True) -> Any:
    """Return a wrapper in a step with tokens of these slots, and rows of logits of others (by default the same)."""
    punica = wrapper(max_num_batched_tokens=64, max_batches=64, device="cpu")
    # Adapter n is in slot n - 1, and 0 is the base.
    tokens, requests = (tuple(slot + 1 for slot in of) for of in (slots, slots if rows is None else rows))
    punica.update_metadata(LoRAMapping(tokens, requests, is_prefill=is_prefill), [1, 2, 3], SLOTS, VOCABULARY)
    return punica


def products(
    wrapper: type,
    slots: list[int],
    *,
    is_prefill: bool,
    broken: int | None = None,
    dtype: torch.dtype = torch.float32,
    lora_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the wrapper adds for tokens of these slots (-1 is the base), and the expected sum.

    The products of the `broken` slot are infinite.
    """
    random = torch.Generator().manual_seed(7)
    lora_dtype = lora_dtype or dtype
    a = tuple(torch.randn(SLOTS, 1, RANK, INPUTS, generator=random).to(lora_dtype) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK, generator=random).to(lora_dtype) for width in SLICES)
    x = torch.randn(len(slots), INPUTS, generator=random).to(dtype)
    if broken is not None:
        for part in a:
            part[broken] = torch.finfo(dtype).max
    punica = wrapper_of(wrapper, slots, is_prefill=is_prefill)
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


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 2, 8])
@pytest.mark.parametrize("lora_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_types_of_model_and_adapters_may_differ(
    dtype: torch.dtype, lora_dtype: torch.dtype, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A2: float32 with LORAMUX_ENGINE__LORA_DTYPE=bfloat16 stopped the engine. No mix is less exact than in vLLM."""
    monkeypatch.setattr(cpu_lora, "MAX_KERNEL_TOKENS", few)
    slots = [0, 1, 1, 1, 2, 0] * 8
    found, expected = products(CpuPunicaWrapper, slots, is_prefill=True, dtype=dtype, lora_dtype=lora_dtype)
    theirs, _ = products(PunicaWrapperCPU, slots, is_prefill=True, dtype=dtype, lora_dtype=lora_dtype)
    ours, stock = ((sums - expected).square().mean().sqrt() for sums in (found, theirs))
    assert ours <= stock * 1.01 + 1e-6


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("slots", [[1, 1, 1, -1, 0, 2], [-1, 1, 0], [1, 1, -1]])
def test_an_adapter_whose_products_are_infinite_changes_no_other_token(
    slots: list[int], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_lora, "MAX_KERNEL_TOKENS", few)
    found, expected = products(CpuPunicaWrapper, slots, is_prefill=True, broken=1)
    sound = [token for token, slot in enumerate(slots) if slot != 1]
    torch.testing.assert_close(found[sound], expected[sound], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lora_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slots", [[0], [-1], [-1, 2, -1, 0, 2, -1], [1] * 20])
def test_an_embedding_gets_its_own_adapter_and_the_base_gets_none(
    slots: list[int], dtype: torch.dtype, lora_dtype: torch.dtype
) -> None:
    """A6: vLLM's own wrapper adds the last slot's adapter to tokens of the base."""
    random = torch.Generator().manual_seed(7)
    b = torch.randn(SLOTS, 1, INPUTS, RANK, generator=random).to(lora_dtype)
    x, y = torch.randn(len(slots), RANK, generator=random).to(lora_dtype), torch.zeros(len(slots), INPUTS, dtype=dtype)
    wrapper_of(CpuPunicaWrapper, slots).add_lora_embedding(y, x, b, add_input=True)
    expected = torch.stack([x[token].float() @ b[slot, 0].float().T * (slot >= 0) for token, slot in enumerate(slots)])
    exact = torch.finfo(dtype).eps if dtype != lora_dtype else torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(y.float(), expected, rtol=2 * exact, atol=2 * exact)


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("head_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [[0], [-1], [-1, 2, 0, 0, -1], [1] * 20, [2, 2]])
def test_a_row_of_logits_gets_the_head_of_its_own_adapter(
    rows: list[int], dtype: torch.dtype, head_dtype: torch.dtype, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6: the rows are those of the requests, not the tokens of the step; logits may be padded, and of another type."""
    monkeypatch.setattr(cpu_lora, "MAX_KERNEL_TOKENS", few)
    random = torch.Generator().manual_seed(7)
    a = torch.randn(SLOTS, 1, RANK, INPUTS, generator=random).to(dtype)
    b = torch.randn(SLOTS, 1, VOCABULARY, RANK, generator=random).to(dtype)
    a[2] = b[2] = 0  # an adapter that leaves the head as it is
    x, y = torch.randn(len(rows), INPUTS, generator=random).to(dtype), torch.zeros(len(rows), VOCABULARY + 4)
    found = y.to(head_dtype)
    wrapper_of(CpuPunicaWrapper, [1, 1, 0, -1], rows=rows).add_lora_logits(found, x, a, b, 0.5)
    for row, slot in enumerate(rows):
        if slot >= 0:
            y[row, :VOCABULARY] = 0.5 * (x[row].float() @ a[slot, 0].float().T) @ b[slot, 0].float().T
    torch.testing.assert_close(found.float(), y, rtol=2e-2, atol=5e-2)


def test_a_layer_that_has_not_all_tokens_of_the_step_is_an_error() -> None:
    """The compiled kernel would read memory that is not the tensor's."""
    weights = (torch.ones(SLOTS, 1, RANK, INPUTS),), (torch.ones(SLOTS, 1, INPUTS, RANK),)
    with pytest.raises(ValueError, match="a layer has 2 tokens, but the step has 3"):
        wrapper_of(CpuPunicaWrapper, [0, 0, 1]).add_lora_linear(
            torch.zeros(2, INPUTS), torch.zeros(2, INPUTS), *weights, 1.0, (INPUTS,)
        )


def test_what_is_written_into_a_slot_later_counts() -> None:
    a, b = (torch.zeros(SLOTS, 1, RANK, INPUTS),), (torch.zeros(SLOTS, 1, INPUTS, RANK),)
    x, found = torch.ones(1, INPUTS), torch.zeros(1, INPUTS)
    punica = wrapper_of(CpuPunicaWrapper, [1], is_prefill=False)
    punica.add_lora_linear(found, x, a, b, 1.0, (INPUTS,))
    assert not found.any()
    a[0][1, 0, :2, :] = 1
    b[0][1, 0, :, :2] = 1
    punica.add_lora_linear(found, x, a, b, 1.0, (INPUTS,))
    assert found.tolist() == [[2.0 * INPUTS] * INPUTS]


@pytest.mark.skipif(version.__version_tuple__ >= (0, 33), reason="vLLM 0.33 has fixed it")
def test_vllms_own_wrapper_still_applies_the_last_slot_to_the_base() -> None:
    """From 0.33 on, engine/worker/cpu_lora.py is needed only for its speed."""
    found, expected = products(PunicaWrapperCPU, [-1, -1], is_prefill=False)
    assert not torch.allclose(found, expected)
