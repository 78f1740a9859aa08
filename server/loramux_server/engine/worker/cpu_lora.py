"""LoRA's matrix products on a CPU: right for the base, and as fast for many adapters in a batch as for one.

vLLM 0.32 marks the base's tokens with the slot -1, and its CPU kernels use that as an index, which in Python means the
last slot: as soon as every slot is taken, the base answers with the last slot's adapter. (Its GPU kernels look for the
-1.) They also gather a copy of an adapter's weights for every single token.

Here an adapter with many tokens in a step, as when it reads a prompt, gets products of its own; all those with a few,
as when they write, share one call of a compiled loop a matrix. For a few tokens the products themselves take less time
than it takes to call torch for them, several times in every matrix of every layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

from loramux_server.engine.worker.cpu_kernels import LOOPS, as_array

FEW_TOKENS = 8
"""Of an adapter in one step; the loop's time grows with them, that of torch's calls hardly."""
BASE = -1

Stacked = tuple[torch.Tensor, ...]
Tokens = slice | torch.Tensor
Arrays = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class _Step:
    """Who does which of a step's tokens."""

    slot_of: npt.NDArray[np.int64]
    """For the loop: each token's slot; BASE for the base's and for those in `products`."""
    products: list[tuple[int, Tokens]]
    """A slot and its tokens, for slots that have many."""

    @classmethod
    def of(cls, slot_of: npt.NDArray[np.int64], *, has_loop: bool) -> "_Step":
        """Divide the tokens whose slots are in `slot_of`."""
        slots, counts = np.unique(slot_of, return_counts=True)
        crowded = slots[(counts > (FEW_TOKENS if has_loop else 0)) & (slots != BASE)]
        alone = len(slots) == len(crowded) == 1
        products = [
            (int(slot), slice(None) if alone else torch.from_numpy(np.flatnonzero(slot_of == slot))) for slot in crowded
        ]
        return cls(np.where(np.isin(slot_of, crowded), BASE, slot_of), products)

    @property
    def has_few(self) -> bool:
        """Whether the loop has anything to do."""
        return bool((self.slot_of != BASE).any())


class CpuPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's wrapper, with the linear layers' products done here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._step: _Step | None = None
        self._has_few = False
        self._arrays: dict[torch.Tensor, Arrays] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Forget which token belonged to which slot; it is found out once a step and not in each layer."""
        super().update_metadata(*args, **kwargs)
        self._step = None

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stacked,
        lora_b_stacked: Stacked,
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add `(x @ A @ B) * scale` of each token's adapter to `y`, in place.

        `x` is (tokens, inputs) and `y` (tokens, outputs); each A is (slots, 1, rank, inputs) and each B (slots, 1,
        slice, rank), one pair for each slice of the outputs.
        """
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if self._step is None:
            self._step = _Step.of(self.token_lora_indices.numpy(), has_loop=x.dtype in LOOPS)
            self._has_few = self._step.has_few
        for slot, tokens in self._step.products:
            _add_products(y, x, lora_a_stacked, lora_b_stacked, slot, tokens, scale)
        if self._has_few:
            arrays = self._arrays.get(lora_a_stacked[0])
            if arrays is None:
                arrays = self._arrays[lora_a_stacked[0]] = list(_paired(lora_a_stacked, lora_b_stacked))
            loop, whole, inputs, start = LOOPS[x.dtype], as_array(y), as_array(x.contiguous()), 0
            for (a, b), width in zip(arrays, output_slices, strict=True):
                loop(whole[:, start : start + width], inputs, self._step.slot_of, a, b, scale)
                start += width

    def add_lora_logits(self, *_: Any, **__: Any) -> None:
        """Add nothing: no adapter that loramux accepts changes the head.

        vLLM's own takes a row for each request, and is given one for each of the prompt's tokens where a request asks
        for their log-probabilities: that request, and with it every stream, ends with the engine.
        """


def _add_products(
    y: torch.Tensor, x: torch.Tensor, a: Stacked, b: Stacked, slot: int, tokens: Tokens, scale: float
) -> None:
    inputs, start = x[tokens], 0
    for narrow, wide in zip(a, b, strict=True):
        columns = slice(start, start + wide.shape[2])
        outputs = y[tokens, columns].addmm_(inputs @ narrow[slot, 0].T, wide[slot, 0].T, alpha=scale)
        if not isinstance(tokens, slice):  # else it is a view, and y has the sum already
            y[tokens, columns] = outputs
        start = columns.stop


def _paired(a: Stacked, b: Stacked) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """The memory of each A and B, (slots, rank, inputs) and (slots, outputs, rank); what vLLM writes shows in it."""
    return ((as_array(narrow[:, 0]), as_array(wide[:, 0])) for narrow, wide in zip(a, b, strict=True))


def install() -> None:
    """Let vLLM's CPU platform name this wrapper when a worker asks for one; elsewhere nothing changes."""
    if current_platform.is_cpu():
        name = f"{CpuPunicaWrapper.__module__}.{CpuPunicaWrapper.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: name)
