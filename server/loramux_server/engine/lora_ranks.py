"""The ranks of LoRA slots, without importing vLLM."""

from collections.abc import Sequence

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for `max_lora_rank`."""


def max_lora_rank(ranks: Sequence[int]) -> int:
    """Return the smallest `max_lora_rank` for adapters of all these ranks, at least vLLM's default of 16.

    A higher value costs speed and memory on every request that uses an adapter.
    """
    return next((limit for limit in LORA_RANKS if limit >= max([16, *ranks])), LORA_RANKS[-1])
