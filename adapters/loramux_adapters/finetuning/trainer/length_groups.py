"""The order of the examples in an epoch: random, with similar lengths in each batch."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

_BATCHES_PER_GROUP = 25
"""Random groups of 25 batches' examples are sorted by length, so that similar lengths share a batch."""


class LengthGroupedSampler(Sampler[int]):
    """Random order of examples in which each batch holds similar lengths; the same for the same epoch and seed."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; accelerate calls it before each one, including the one in which training resumes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=rng).tolist()
        group = self._batch_size * _BATCHES_PER_GROUP
        batches = [
            batch
            for start in range(0, len(order), group)
            for batch in self._batches(sorted(order[start : start + group], key=self._lengths.__getitem__))
        ]
        *full, last = batches  # only the last one may be smaller: it stays at the end
        for number in torch.randperm(len(full), generator=rng).tolist():
            yield from full[number]
        yield from last

    def _batches(self, order: list[int]) -> list[list[int]]:
        return [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
