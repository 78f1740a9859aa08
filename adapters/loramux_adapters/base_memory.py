"""What serving a base takes of a device's memory, as vLLM itself says: in bytes, on one device that serves it alone."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

Samples = Annotated[tuple[tuple[PositiveInt, NonNegativeInt], ...], Field(min_length=2)]


class BaseMemory(BaseModel):
    """The sizes that decide what fits next to a base on a device.

    vLLM's model and its attention layers are asked, so no kind of attention or quantization is known here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bytes: NonNegativeInt
    """Of the weights in the form in which they are served: quantized weights with their scales."""
    dtype: str
    """In which the model computes, by torch's name, such as `bfloat16`."""
    quantization: str | None = None
    """vLLM's name of the method, for quantized weights."""
    is_quantized_on_load: bool = False
    """Whether vLLM quantizes weights in 16 bits while it loads them: then `weight_bytes` are those in 16 bits."""
    can_dequantize: bool = False
    """Whether transformers dequantizes such weights while it loads them: then they are trained on in 16 bits."""
    min_capability: NonNegativeInt | None = None
    """The compute capability that this quantization needs, as vLLM has it: 75 means 7.5."""
    slot_bytes_per_rank: NonNegativeInt = 0
    """Of one LoRA slot, divided by the rank of the slots; without the head."""
    head_slot_bytes_per_rank: NonNegativeInt = 0
    """The same of the head, which is not adapted on a GPU."""
    values_per_token: PositiveInt
    """Values that a running step holds per token at its widest layer."""
    max_context: PositiveInt
    """Tokens of the longest context that the base was made for."""
    request_samples: Samples
    """(tokens, bytes of KV cache) of one request at some lengths, the last one the longest that can be served.

    Between them, the bytes grow evenly.
    """
    kv_cache_parts: PositiveInt | None = None
    """Into how many parts tensor parallelism can split a request's KV cache: its heads, or 1 for latent attention.

    More GPUs hold copies. None if the number does not matter, as for states without heads.
    """
    arguments: Mapping[str, str | float | int | bool | None] = {}
    """The operator's own engine arguments, as vLLM parsed them."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        lengths = [tokens for tokens, _ in self.request_samples]
        sizes = [size for _, size in self.request_samples]
        if sorted(set(lengths)) != lengths or sorted(sizes) != sizes:
            raise ValueError("request_samples must grow")
        return self

    def request_bytes(self, tokens: int) -> int:
        """Return the KV cache of one request with `tokens` of prompt and answer."""
        samples = self.request_samples
        right = min(max(bisect_left(samples, (tokens, -1)), 1), len(samples) - 1)
        (before, low), (after, high) = samples[right - 1], samples[right]
        return low + max(0, tokens - before) * (high - low) // (after - before)

    def longest_request(self, free_bytes: int) -> int:
        """Return the tokens of the longest request whose KV cache fits into `free_bytes`; 0 if none does."""
        if self.request_bytes(1) > free_bytes:
            return 0
        fits, too_long = 1, self.request_samples[-1][0] + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            fits, too_long = (middle, too_long) if self.request_bytes(middle) <= free_bytes else (fits, middle)
        return fits

    @property
    def bytes_per_token(self) -> float:
        """The KV cache that one more token takes in a long request."""
        longest = self.max_context
        half = max(1, longest // 2)
        return (self.request_bytes(longest) - self.request_bytes(half)) / max(1, longest - half)
