"""LoRA's matrix products on a CPU: right for the base, and as fast for many adapters in a batch as for one.

vLLM 0.32 marks the base's tokens with the slot -1, and its CPU kernels use that as an index, which in Python means the
last slot: as soon as every slot is taken, the base answers with the last slot's adapter. (Its GPU kernels look for the
-1.) They also gather a copy of an adapter's weights for every single token.

Here the adapters in a batch share two dense products a layer: every token meets the A of all of them, a mask keeps of
that what is its own adapter's, and the B of all of them brings it back. The ranks are small, so what is computed in
vain costs less than a call for each adapter would. The base's tokens have a mask of zeros. It is laid on the bits: the
product of a zero with another adapter's infinity would be a NaN.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

MAX_WIDTH = 128
"""The most slots x rank in one product; more adapters than that are taken in several, each for its own tokens."""

Stacked = tuple[torch.Tensor, ...]
Selection = slice | torch.Tensor
EVERYTHING = slice(None)
BASE = -1
_BITS = {2: torch.int16, 4: torch.int32}
"""The integers as wide as a float of so many bytes."""


@dataclass(frozen=True, slots=True)
class _Share:
    """Slots that are multiplied together, the tokens that this is for, and what of the product is each token's own.

    `mask` is (tokens, 1, slots x rank), of integers as wide as the product's floats: all bits are set where the column
    is of the token's slot, and none elsewhere.
    """

    slots: Selection
    tokens: Selection
    mask: torch.Tensor


def _shares(slot_of: torch.Tensor, slots: int, rank: int, dtype: torch.dtype) -> Iterator[_Share]:
    """Divide a step's tokens, whose slots (-1 for the base) are in `slot_of`, into shares of at most MAX_WIDTH."""
    present = sorted(set(slot_of.tolist()) - {BASE})
    at_once = max(1, MAX_WIDTH // rank)
    for first in range(0, len(present), at_once):
        some = torch.tensor(present[first : first + at_once])
        own = slot_of.unsqueeze(1) == some
        theirs = own.any(1).nonzero().squeeze(1)
        # Multiplying the others in vain is cheaper than picking these out in every layer, while they are the most.
        tokens = EVERYTHING if 2 * len(theirs) > len(slot_of) else theirs
        mask = -own[tokens].to(_BITS[dtype.itemsize]).repeat_interleave(rank, dim=1).unsqueeze(1)
        yield _Share(EVERYTHING if len(some) == slots else some, tokens, mask)


class _Weights:
    """One layer's A and B of all slots, laid out so that those of several slots are one matrix.

    vLLM writes adapters into `a` (slots, 1, rank, inputs) and `b` (slots, 1, outputs, rank), one of each for each slice
    of the outputs; they become views of the memory here, so that it goes on doing so.
    """

    def __init__(self, a: Stacked, b: Stacked) -> None:
        with torch.inference_mode(mode=False):  # vLLM writes adapters outside of it
            self.a = torch.stack([part[:, 0] for part in a])
            self.b = [part[:, 0].transpose(0, 1).contiguous() for part in b]
            for part, memory in zip(a, self.a, strict=True):
                part.data = memory.unsqueeze(1)
            for part, memory in zip(b, self.b, strict=True):
                part.data = memory.transpose(0, 1).unsqueeze(1)

    def add_products(self, y: torch.Tensor, x: torch.Tensor, share: _Share, scale: float) -> None:
        """Add the products of the share's tokens of `x` (tokens, inputs) to `y` (tokens, outputs), in place."""
        inputs, a = x[share.tokens], self.a[:, share.slots]
        shrunk = (inputs @ a.reshape(-1, a.shape[-1]).T).view(len(inputs), len(self.b), -1)
        shrunk.view(share.mask.dtype).bitwise_and_(share.mask)
        start = 0
        for number, memory in enumerate(self.b):
            columns = slice(start, start + len(memory))
            b = memory[:, share.slots].reshape(len(memory), -1)
            outputs = y[share.tokens, columns].addmm_(shrunk[:, number], b.T, alpha=scale)
            if share.tokens is not EVERYTHING:  # else it is a view, and y has the sum already
                y[share.tokens, columns] = outputs
            start += len(memory)


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's wrapper, with the linear layers' products done for all adapters of a step together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shares: list[_Share] | None = None
        self._weights: dict[torch.Tensor, _Weights] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Forget which token belonged to which slot; it is found out once a step and not in each layer."""
        super().update_metadata(*args, **kwargs)
        self._shares = None

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stacked,
        lora_b_stacked: Stacked,
        scale: float,
        output_slices: tuple[int, ...],  # noqa: ARG002 - the widths of the B
        **_: Any,
    ) -> None:
        """Add `(x @ A @ B) * scale` of each token's adapter to `y`, in place.

        `x` is (tokens, inputs) and `y` (tokens, outputs); each A is (slots, 1, rank, inputs) and each B (slots, 1,
        slice, rank), one pair for each slice of the outputs.
        """
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if self._shares is None:
            slots, rank = len(lora_a_stacked[0]), lora_a_stacked[0].shape[2]
            self._shares = list(_shares(self.token_lora_indices, slots, rank, x.dtype))
        if not self._shares:
            return
        weights = self._weights.get(lora_a_stacked[0])
        if weights is None:
            weights = self._weights[lora_a_stacked[0]] = _Weights(lora_a_stacked, lora_b_stacked)
        for share in self._shares:
            weights.add_products(y, x, share, scale)

    def add_lora_logits(self, *_: Any, **__: Any) -> None:
        """Add nothing: no adapter that loramux accepts changes the head.

        vLLM's own takes a row for each request, and is given one for each of the prompt's tokens where a request asks
        for their log-probabilities: that request, and with it every stream, ends with the engine.
        """


def install() -> None:
    """Let vLLM's CPU platform name this wrapper when a worker asks for one; elsewhere nothing changes."""
    if current_platform.is_cpu():
        name = f"{GroupedPunicaWrapper.__module__}.{GroupedPunicaWrapper.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: name)
