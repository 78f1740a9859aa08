"""A LoRA kernel for few tokens, compiled by numba: one call, no copies, any mix of adapters.

It is single-threaded: for so little work, threads would spend most of their time on synchronization.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, types

Scalar = Any
Kernel = Callable[..., None]
FAST_MATH_FLAGS = {"reassoc", "contract", "nsz"}
"""Allows any order of summation, as in any matrix product, but keeps infinities and NaN."""


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Return a view of the tensor's memory; bfloat16, which numpy lacks, as uint16."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def _compile_kernel(dtype: types.Type, widen: Callable[[Scalar], Scalar], narrow: Callable[[Scalar], Scalar]) -> Kernel:
    """Compile the kernel eagerly; `widen` converts an item to float32, `narrow` a float32 to an item."""
    weights = types.Array(dtype, 3, "C")
    signature = types.void(
        types.Array(dtype, 2, "A"),
        types.Array(dtype, 2, "C"),
        types.Array(types.int64, 1, "C"),
        weights,
        weights,
        types.float64,
    )

    @njit(signature, fastmath=FAST_MATH_FLAGS, nogil=True)  # type: ignore[untyped-decorator]
    def add(y: Any, x: Any, token_slots: Any, a: Any, b: Any, scale: float) -> None:
        shrunk = np.empty(a.shape[1], np.float32)
        for token in range(len(token_slots)):
            slot = token_slots[token]
            if slot < 0:
                continue
            for row in range(a.shape[1]):
                total = np.float32(0)
                for column in range(a.shape[2]):
                    total += widen(x[token, column]) * widen(a[slot, row, column])
                shrunk[row] = total * np.float32(scale)
            for row in range(b.shape[1]):
                total = np.float32(0)
                for column in range(b.shape[2]):
                    total += shrunk[column] * widen(b[slot, row, column])
                y[token, row] = narrow(widen(y[token, row]) + total)

    kernel: Kernel = add
    return kernel


@njit(inline="always")  # type: ignore[untyped-decorator]
def _identity(number: Scalar) -> Scalar:
    return number


@njit(inline="always")  # type: ignore[untyped-decorator]
def _bfloat16_to_float32(bits: Scalar) -> Scalar:
    """The bits of a bfloat16 are the upper half of those of a float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _float32_to_bfloat16(number: Scalar) -> Scalar:
    """Round to nearest even; NaN is handled apart, because the carry of its bits could make it a number."""
    if np.isnan(number):
        return np.uint16(0x7FC0)
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


KERNELS: dict[torch.dtype, Kernel] = {
    torch.float32: _compile_kernel(types.float32, _identity, _identity),
    torch.bfloat16: _compile_kernel(types.uint16, _bfloat16_to_float32, _float32_to_bfloat16),
}
"""`KERNELS[dtype](y, x, token_slots, a, b, scale)` adds `(x @ A @ B) * scale` of each token's slot to `y`, in place.

All tensors are passed as `as_array`: `y` (tokens, outputs), `x` (tokens, inputs), `a` (slots, rank, inputs) and `b`
(slots, outputs, rank); all but `y` are contiguous. Tokens with a negative slot in `token_slots` are skipped.
"""
