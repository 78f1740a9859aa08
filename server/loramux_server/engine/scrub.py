"""Values that are no numbers, cleaned out of the KV cache: what the worker does of it."""

from collections.abc import Iterable
from typing import Any

import torch


class Scrubbing:
    """A method for vLLM's worker, called between two steps.

    A freed block of the cache keeps its values, and the next request that gets it reads some of them with a weight of
    zero. Zero times NaN is NaN, so one adapter that computes NaN spoils the answers of others, the base's too.
    """

    def scrub_cache(self) -> int:
        """Make zeros of all NaN and infinities, and return how many there were; numbers stay as they are."""
        caches: list[Any] = self.model_runner.kv_caches  # type: ignore[attr-defined]
        return sum(_scrubbed(cache) for cache in _tensors(caches))


def _tensors(caches: Iterable[Any]) -> Iterable[torch.Tensor]:
    """The caches' tensors; some models have several for a layer, and quantised ones can't hold a NaN."""
    for cache in caches:
        for tensor in cache if isinstance(cache, list | tuple) else [cache]:
            if tensor.is_floating_point() and tensor.element_size() > 1:
                yield tensor


def _scrubbed(cache: torch.Tensor) -> int:
    bad = int((~torch.isfinite(cache)).sum())
    if bad:
        torch.nan_to_num_(cache, nan=0.0, posinf=0.0, neginf=0.0)
    return bad
