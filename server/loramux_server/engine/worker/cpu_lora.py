"""LoRA's matrix products on a CPU: correct for the base, and as fast for many adapters in a batch as for one.

vLLM 0.32 assigns the base's tokens to slot -1, which its CPU kernels use as an index: in Python, that is the last slot.
When all slots are filled, the base answers with the last slot's adapter. (Its GPU kernels skip -1.) They also copy an
adapter's weights for every token.

Here an adapter with many tokens in a step, as in prefill, gets its own matrix products; all adapters with few tokens,
as in decode, share one call of a compiled kernel per matrix. For few tokens, the products take less time than the calls
of torch for them, several per matrix and layer.
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


@dataclass(frozen=True, slots=True)
class _StepDispatch:
    """The split of a step's tokens between the kernel and matrix products."""

    kernel_slots: npt.NDArray[np.int64]
    """The slot of each token for the kernel; BASE_SLOT for tokens of the base and those in `matmuls`."""
    matmuls: list[tuple[int, Tokens]]
    """The slots with many tokens, each with its tokens."""

    @classmethod
    def of(cls, token_slots: npt.NDArray[np.int64], *, has_kernel: bool) -> "_StepDispatch":
        """Split a step; `token_slots` holds the slot of each token."""
        slots, counts = np.unique(token_slots, return_counts=True)
        many = slots[(counts > (MAX_KERNEL_TOKENS if has_kernel else 0)) & (slots != BASE_SLOT)]
        is_only = len(slots) == len(many) == 1
        matmuls = [
            (int(slot), slice(None) if is_only else torch.from_numpy(np.flatnonzero(token_slots == slot)))
            for slot in many
        ]
        return cls(np.where(np.isin(token_slots, many), BASE_SLOT, token_slots), matmuls)

    @property
    def needs_kernel(self) -> bool:
        """Whether the kernel has any token."""
        return bool((self.kernel_slots != BASE_SLOT).any())


class CpuPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with its own products for linear layers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dispatch: _StepDispatch | None = None
        self._needs_kernel = False
        self._weight_arrays: dict[torch.Tensor, WeightArrays] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Reset the dispatch, which is computed once per step, in its first layer."""
        super().update_metadata(*args, **kwargs)
        self._dispatch = None

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
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if self._dispatch is None:
            self._dispatch = _StepDispatch.of(self.token_lora_indices.numpy(), has_kernel=x.dtype in KERNELS)
            self._needs_kernel = self._dispatch.needs_kernel
        for slot, tokens in self._dispatch.matmuls:
            _add_matmul(y, x, lora_a_stacked, lora_b_stacked, slot, tokens, scale)
        if self._needs_kernel:
            arrays = self._weight_arrays.get(lora_a_stacked[0])
            if arrays is None:
                arrays = self._weight_arrays[lora_a_stacked[0]] = list(_weight_views(lora_a_stacked, lora_b_stacked))
            kernel, outputs, inputs, start = KERNELS[x.dtype], as_array(y), as_array(x.contiguous()), 0
            for (a, b), width in zip(arrays, output_slices, strict=True):
                kernel(outputs[:, start : start + width], inputs, self._dispatch.kernel_slots, a, b, scale)
                start += width

    def add_lora_logits(self, *_: Any, **__: Any) -> None:
        """Do nothing: no adapter that loramux accepts changes the language model head.

        vLLM's implementation expects one row per request, but gets one per prompt token if a request asks for prompt
        log-probabilities; that crashes the engine.
        """


def _add_matmul(
    y: torch.Tensor, x: torch.Tensor, a: StackedWeights, b: StackedWeights, slot: int, tokens: Tokens, scale: float
) -> None:
    inputs, start = x[tokens], 0
    for narrow, wide in zip(a, b, strict=True):
        columns = slice(start, start + wide.shape[2])
        outputs = y[tokens, columns].addmm_(inputs @ narrow[slot, 0].T, wide[slot, 0].T, alpha=scale)
        if not isinstance(tokens, slice):  # a slice is a view: y has the sum already
            y[tokens, columns] = outputs
        start = columns.stop


def _weight_views(a: StackedWeights, b: StackedWeights) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield views of each A (slots, rank, inputs) and B (slots, outputs, rank), which show what vLLM writes later."""
    return ((as_array(narrow[:, 0]), as_array(wide[:, 0])) for narrow, wide in zip(a, b, strict=True))


def install_punica_wrapper() -> None:
    """Make vLLM's CPU platform use CpuPunicaWrapper; do nothing on other platforms."""
    if current_platform.is_cpu():
        name = f"{CpuPunicaWrapper.__module__}.{CpuPunicaWrapper.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: name)
