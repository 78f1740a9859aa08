"""A low-rank product for a few tokens, compiled by numba: in one call, with no copies, for adapters in any mix.

It runs in the thread that calls it: shared among threads, most of its time would be spent on waiting for each other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, types

Scalar = Any
Loop = Callable[..., None]
REORDERED = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order, as in any matrix product; infinities and NaN stay what they are."""


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The tensor's own memory; numpy has no bfloat16, so that is bare bits."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def _loop(item: types.Type, widen: Callable[[Scalar], Scalar], narrow: Callable[[Scalar], Scalar]) -> Loop:
    """Compile the loop, now and not in a request: `widen` makes an item a float32, and `narrow` a float32 an item."""
    weights = types.Array(item, 3, "C")
    signature = types.void(
        types.Array(item, 2, "A"),
        types.Array(item, 2, "C"),
        types.Array(types.int64, 1, "C"),
        weights,
        weights,
        types.float64,
    )

    @njit(signature, fastmath=REORDERED, nogil=True)  # type: ignore[untyped-decorator]
    def add(y: Any, x: Any, slot_of: Any, a: Any, b: Any, scale: float) -> None:
        shrunk = np.empty(a.shape[1], np.float32)
        for token in range(len(slot_of)):
            slot = slot_of[token]
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

    loop: Loop = add
    return loop


@njit(inline="always")  # type: ignore[untyped-decorator]
def _same(number: Scalar) -> Scalar:
    return number


@njit(inline="always")  # type: ignore[untyped-decorator]
def _widened(bits: Scalar) -> Scalar:
    """A bfloat16 is the upper half of a float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _narrowed(number: Scalar) -> Scalar:
    """Rounded to the nearest, and to the even one of two; what is no number must not become one by a carry."""
    if np.isnan(number):
        return np.uint16(0x7FC0)
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


LOOPS: dict[torch.dtype, Loop] = {
    torch.float32: _loop(types.float32, _same, _same),
    torch.bfloat16: _loop(types.uint16, _widened, _narrowed),
}
"""LOOPS[dtype](y, x, slot_of, a, b, scale) adds `(x @ A @ B) * scale` of each token's slot to `y`, in place.

All are `as_array`: `y` (tokens, outputs), `x` (tokens, inputs), `a` (slots, rank, inputs) and `b` (slots, outputs,
rank), contiguous but for `y`. Tokens whose slot in `slot_of` is negative are left alone.
"""
