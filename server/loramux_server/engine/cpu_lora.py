"""LoRA's matrix products on a CPU: right for the base, and grouped by adapter.

vLLM 0.32 marks the base's tokens with the slot -1, and its CPU kernels use that as an index, which in Python means the
last slot: as soon as every slot is taken, the base answers with the last slot's adapter. (Its GPU kernels look for the
-1.) They also gather a copy of an adapter's weights for every single token. Here each slot's tokens are multiplied
together, and the base's are left alone.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's wrapper, with the linear layers' products done slot by slot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: list[tuple[int, torch.Tensor]] = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take note, once a step and not in each layer, of which tokens belong to which slot."""
        super().update_metadata(*args, **kwargs)
        slots = self.token_lora_indices
        self._groups = [(slot, (slots == slot).nonzero().squeeze(1)) for slot in slots.unique().tolist() if slot >= 0]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add `(x @ A @ B) * scale` of each token's adapter to `y`, in place.

        `x` is (tokens, inputs) and `y` (tokens, outputs); each A is (slots, 1, rank, inputs) and each B (slots, 1,
        slice, rank), one pair for each slice of the outputs.
        """
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        for slot, tokens in self._groups:
            inputs, start = x[tokens], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                outputs = (inputs @ a[slot, 0].T) @ b[slot, 0].T
                y[tokens, start : start + width] += (outputs * scale).to(y.dtype)
                start += width


def install() -> None:
    """Let vLLM's CPU platform name this wrapper when a worker asks for one; elsewhere nothing changes."""
    if current_platform.is_cpu():
        name = f"{GroupedPunicaWrapper.__module__}.{GroupedPunicaWrapper.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: name)
