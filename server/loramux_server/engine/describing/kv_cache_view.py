"""The KV cache that a request takes: vLLM's own attention layers are asked, and its function that shares out blocks."""

from bisect import bisect_right
from collections.abc import Callable, Iterator

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.utils import get_current_attn_backends
from vllm.platforms import current_platform
from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

from loramux_server.engine.vllm_compat import kv_cache_bytes

Sample = tuple[int, int]
"""Tokens of a request, and the bytes of its KV cache."""


def request_samples(config: VllmConfig, longest: int) -> tuple[Sample, ...]:
    """Return the KV cache of requests of some lengths, from 1 token to `longest`.

    The model of `config` was built in this process, so its attention layers are known. `config` is changed.

    Raises:
        Exception: vLLM can't say, for example because no attention backend of this machine suits the layers.
    """
    return samples(_request_bytes(config), max(2, longest))


def kv_cache_parts(config: VllmConfig) -> int | None:
    """Return into how many parts tensor parallelism can split the KV cache: the fewest heads of an attention layer.

    vLLM gives each GPU a copy of a head if there are more GPUs than heads; latents count as one head. None for a model
    whose layers have no heads. `config` is that of one GPU.
    """
    layers = get_kv_cache_spec(config).values()
    return min((layer.num_kv_heads for layer in layers if isinstance(layer, AttentionSpec)), default=None)


def samples(function: Callable[[int], int], longest: int) -> tuple[Sample, ...]:
    """Return points from the end of the first block to `longest` between which `function` grows evenly."""
    first = min(bisect_right(range(1, longest + 1), function(1), key=function), longest - 1)
    ends = (first, function(first)), (longest, function(longest))
    return (ends[0], *inner_samples(function, *ends), ends[1])


def _request_bytes(config: VllmConfig) -> Callable[[int], int]:
    """Return vLLM's function from a request's tokens to the bytes of its KV cache, prepared as by its engine core."""
    register_all_kvcache_specs(config)
    current_platform.update_block_size_for_backend(config)
    specs = get_kv_cache_spec(config)
    layouts = [layout.name for layout in get_supported_kv_cache_layouts(get_current_attn_backends(config))]
    config.cache_config.kv_cache_layout = resolve_kv_cache_layout(config, [layouts], list(specs.values())).name
    longest_request = kv_cache_bytes(config, specs)

    def request_bytes(tokens: int) -> int:
        config.model_config.max_model_len = tokens
        return longest_request()

    return request_bytes


def inner_samples(function: Callable[[int], int], left: Sample, right: Sample) -> Iterator[Sample]:
    """Yield points between which `function` grows evenly, but for its rounding to blocks.

    A part that is not even, such as the one with the end of a sliding window, is halved again and again.
    """
    middle = (left[0] + right[0]) // 2
    if middle == left[0] or left[1] == right[1]:
        return
    point = (middle, function(middle))
    even = left[1] + (right[1] - left[1]) * (middle - left[0]) // (right[0] - left[0])
    if abs(point[1] - even) > 2 * function(1):
        yield from inner_samples(function, left, point)
        yield point
        yield from inner_samples(function, point, right)
