"""Logits of a few states only: prompts have states, too, but nothing to learn from."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class _Output:
    """The output of a decoder that has computed nothing but states of (1, tokens, hidden)."""

    def __init__(self, states: torch.Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, _: str) -> None:
        return None

    def __getitem__(self, index: int) -> torch.Tensor:
        return (self.last_hidden_state,)[index]


class _Decoded(nn.Module):
    """Stands for the part of a model with its decoder, and returns `output`, which was computed before."""

    def __init__(self, replaced: nn.Module, output: _Output) -> None:
        super().__init__()
        self._replaced, self._output = (replaced,), output  # a tuple: it is not a part of this module

    def __getattr__(self, name: str) -> Any:
        if name == "decoder":  # some models call it by itself
            return self
        return getattr(self.__dict__["_replaced"][0], name)

    def forward(self, *_: Any, **__: Any) -> _Output:
        return self._output


def logits_of(causal: Any, states: torch.Tensor) -> torch.Tensor:
    """Return the model's logits (tokens, vocabulary) of its decoder's `states` (tokens, hidden).

    The model itself computes them: some scale or cap what their head computes.
    """
    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    with _decoded(causal, _Output(states[None])):
        logits: torch.Tensor = causal(input_ids=ids, use_cache=False).logits[0]
    return logits


@contextmanager
def _decoded(causal: Any, output: _Output) -> Iterator[None]:
    """Let the model's decoder return `output`."""
    decoder = causal.get_decoder()
    name = next(name for name, child in causal.named_children() if any(part is decoder for part in child.modules()))
    before = getattr(causal, name)
    setattr(causal, name, _Decoded(before, output))
    try:
        yield
    finally:
        setattr(causal, name, before)
