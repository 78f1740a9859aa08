"""LoRA's products on a CPU: correct for the base, and as fast for many adapters in a batch as for one.

vLLM 0.32 assigns the base's tokens to slot -1, which its CPU kernels use as an index: in Python, that is the last slot.
When all slots are filled, the base answers with the last slot's adapter. (Its GPU kernels skip -1, and so do all of
0.33.) They also copy an adapter's weights for every token.

Here an adapter with many tokens in a step, as in prefill, gets its own matrix products; all adapters with few tokens,
as in decode, share one call of a compiled kernel per matrix. For few tokens, the products take less time than the calls
of torch for them, several per matrix and layer.

The types of model and adapters may differ (`lora_dtype`): the products are of the wider one. The kernel rounds only the
sum. The matrix products also round between A and B, which is less than vLLM and PEFT do: they round the second product
too, before it is added.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

from loramux_server.engine.worker.cpu_kernels import KERNELS, as_array

MAX_KERNEL_TOKENS = 8
"""Per adapter and step; beyond it, torch is faster than the kernel."""
BASE_SLOT = -1

StackedWeights = tuple[torch.Tensor, ...]
Tokens = slice | torch.Tensor
WeightArrays = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _StepDispatch:
    """The split of a step's tokens between the kernel and matrix products."""

    kernel_slots: Slots
    """The slot of each token for the kernel; BASE_SLOT for tokens of the base and those in `matmuls`."""
    matmuls: list[tuple[int, Tokens]]
    """The slots with many tokens, each with its tokens."""
    needs_kernel: bool
    """Whether the kernel has any token."""

    @classmethod
    def of(cls, token_slots: Slots, *, has_kernel: bool) -> "_StepDispatch":
        """Split a step; `token_slots` holds the slot of each token."""
        slots, counts = np.unique(token_slots, return_counts=True)
        many = slots[(counts > (MAX_KERNEL_TOKENS if has_kernel else 0)) & (slots != BASE_SLOT)]
        is_only = len(slots) == len(many) == 1
        matmuls = [
            (int(slot), slice(None) if is_only else torch.from_numpy(np.flatnonzero(token_slots == slot)))
            for slot in many
        ]
        kernel_slots = np.where(np.isin(token_slots, many), BASE_SLOT, token_slots)
        return cls(kernel_slots, matmuls, bool((kernel_slots != BASE_SLOT).any()))


class CpuPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with its own products."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dispatches: dict[bool, _StepDispatch] = {}
        self._weight_arrays: dict[torch.Tensor, WeightArrays] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Reset the dispatches, which are computed once per step."""
        super().update_metadata(*args, **kwargs)
        self._dispatches.clear()

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: StackedWeights,
        lora_b_stacked: StackedWeights,
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add `(x @ A @ B) * scale` of each token's adapter to `y`, in place.

        `x` is (tokens, inputs) and `y` (tokens, outputs); each A is (slots, 1, rank, inputs) and each B (slots, 1,
        slice, rank), one pair for each slice of the outputs.
        """
        dispatch = self._dispatch(has_kernel=_has_kernel(y, x, lora_a_stacked[0]))
        self._add_products(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, dispatch)

    def add_lora_embedding(self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, **_: Any) -> None:
        """Add `x @ B` of each token's adapter to `y`, in place.

        `x` (tokens, rank) has the rows of A for the tokens' ids, any row for tokens of the base; `y` is (tokens,
        outputs) and B (slots, 1, outputs, rank).
        """
        if not x.any():  # no adapter in use changes the embedding, as usual
            return
        for slot, tokens in self._dispatch(has_kernel=False).matmuls:
            _add_expanded(y, tokens, slice(None), x[tokens], lora_b_stacked[slot, 0])

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add `(x @ A @ B) * scale` of each row's adapter to the logits `y`, in place.

        `x` is (rows, inputs), `y` (rows, at least vocabulary), A (slots, 1, rank, inputs) and B (slots, 1, vocabulary,
        rank). A row is a sampled token, or a token of a prompt whose log-probabilities were requested; see
        `prompt_logits`.
        """
        # Most adapters leave the head as it is. A whole vocabulary of products with zeros would be slow.
        slots = self.sampler_indices.numpy()
        changing = [slot for slot in np.unique(slots) if slot != BASE_SLOT and lora_a_stacked[slot].any()]
        slots = np.where(np.isin(slots, changing), slots, BASE_SLOT)
        dispatch = _StepDispatch.of(slots, has_kernel=_has_kernel(y, x, lora_a_stacked))
        width = lora_b_stacked.shape[2]
        self._add_products(y, x, (lora_a_stacked,), (lora_b_stacked,), scale, (width,), dispatch)

    def _dispatch(self, *, has_kernel: bool) -> _StepDispatch:
        if has_kernel not in self._dispatches:
            slots = self.token_lora_indices.numpy()
            self._dispatches[has_kernel] = _StepDispatch.of(slots, has_kernel=has_kernel)
        return self._dispatches[has_kernel]

    def _add_products(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        a: StackedWeights,
        b: StackedWeights,
        scale: float,
        output_slices: tuple[int, ...],
        dispatch: _StepDispatch,
    ) -> None:
        if not (dispatch.matmuls or dispatch.needs_kernel):
            return
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if len(x) != len(dispatch.kernel_slots):  # the kernel does not check its indices
            raise ValueError(f"a layer has {len(x)} tokens, but the step has {len(dispatch.kernel_slots)}")
        for slot, tokens in dispatch.matmuls:
            _add_matmul(y, x, a, b, slot, tokens, scale)
        if dispatch.needs_kernel:
            self._add_by_kernel(y, x, a, b, scale, output_slices, dispatch.kernel_slots)

    def _add_by_kernel(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        a: StackedWeights,
        b: StackedWeights,
        scale: float,
        output_slices: tuple[int, ...],
        slots: Slots,
    ) -> None:
        arrays = self._weight_arrays.get(a[0])
        if arrays is None:
            arrays = self._weight_arrays[a[0]] = list(_weight_views(a, b))
        kernel, outputs, inputs, start = KERNELS[x.dtype], as_array(y), as_array(x.contiguous()), 0
        for (narrow, wide), width in zip(arrays, output_slices, strict=True):
            kernel(outputs[:, start : start + width], inputs, slots, narrow, wide, scale)
            start += width


def _has_kernel(y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor) -> bool:
    return y.dtype == x.dtype == weights.dtype and x.dtype in KERNELS


def _add_matmul(
    y: torch.Tensor, x: torch.Tensor, a: StackedWeights, b: StackedWeights, slot: int, tokens: Tokens, scale: float
) -> None:
    inputs, start = x[tokens], 0
    for narrow, wide in zip(a, b, strict=True):
        common = torch.promote_types(x.dtype, narrow.dtype)
        shrunk = inputs.to(common) @ narrow[slot, 0].to(common).T
        _add_expanded(y, tokens, slice(start, start + wide.shape[2]), shrunk, wide[slot, 0], scale)
        start += wide.shape[2]


def _add_expanded(
    y: torch.Tensor, tokens: Tokens, columns: slice, shrunk: torch.Tensor, wide: torch.Tensor, scale: float = 1.0
) -> None:
    """Add `shrunk` (tokens, rank) times `wide` (outputs, rank) to these tokens and columns of `y`, rounded once."""
    outputs, common = y[tokens, columns], torch.promote_types(y.dtype, shrunk.dtype)
    total = outputs.to(common).addmm_(shrunk.to(common), wide.to(common).T, alpha=scale)
    if total is not outputs or not isinstance(tokens, slice):  # else it is a view: y has the sum already
        y[tokens, columns] = total.to(y.dtype)


def _weight_views(a: StackedWeights, b: StackedWeights) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield views of each A (slots, rank, inputs) and B (slots, outputs, rank), which show what vLLM writes later."""
    return ((as_array(narrow[:, 0]), as_array(wide[:, 0])) for narrow, wide in zip(a, b, strict=True))


def install_punica_wrapper() -> None:
    """Make vLLM's CPU platform use CpuPunicaWrapper."""
    name = f"{CpuPunicaWrapper.__module__}.{CpuPunicaWrapper.__qualname__}"
    type(current_platform).get_punica_wrapper = classmethod(lambda _: name)
