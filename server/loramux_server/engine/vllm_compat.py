"""Imports names that differ between vLLM 0.33, 0.32 and 0.26; `make check-vllm` compares all names with a version.

0.26 is the newest version for torch 2.11, which some CUDA machines without network access have. Only the GPU load tests
run there; replacements for missing names cover what those need.
"""

from collections.abc import Callable
from typing import Any


def _check_renamed(error: ImportError) -> None:
    """Raise an error that is not about a name of vLLM: a package that it needs is not installed."""
    if not (error.name or "").startswith("vllm"):
        raise error


try:  # 0.33
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.v1.core.kv_cache_config_builder import get_kv_cache_config_builder
    from vllm.v1.core.kv_cache_planning import _max_memory_usage_bytes_from_groups, get_kv_cache_groups_from_builder

    def kv_cache_bytes(config: Any, specs: dict[str, Any]) -> Callable[[], int]:
        """Return the function that tells the bytes of the longest request's KV cache, by the present `config`.

        `specs` are the KV cache specs of the layers, by name.
        """
        builder = get_kv_cache_config_builder(config)
        groups = get_kv_cache_groups_from_builder(builder, config, specs)
        return lambda: int(_max_memory_usage_bytes_from_groups(builder, config, groups))

except ImportError as error:
    _check_renamed(error)
    from vllm.v1.core.kv_cache_utils import _max_memory_usage_bytes_from_groups, get_kv_cache_groups

    def kv_cache_bytes(config: Any, specs: dict[str, Any]) -> Callable[[], int]:
        """Return the function that tells the bytes of the longest request's KV cache, by the present `config`."""
        groups = get_kv_cache_groups(config, specs)
        return lambda: int(_max_memory_usage_bytes_from_groups(config, groups))

    try:  # 0.32
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    except ImportError as older:  # 0.26
        _check_renamed(older)
        from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.exceptions import GracefulHTTPError
    from vllm.renderers.chat_utils import load_chat_template

    CONVERT_MESSAGES = "to_chat_completion_request"
    """The method that converts a request to /v1/messages."""
    UNSUPPORTED_ARGUMENTS: frozenset[str] = frozenset()
    """Engine arguments that this vLLM does not have; they are ignored."""
except ImportError as error:
    _check_renamed(error)
    from vllm.entrypoints.chat_utils import load_chat_template
    from vllm.entrypoints.openai.api_server import init_app_state

    CONVERT_MESSAGES = "_convert_anthropic_to_openai_request"
    UNSUPPORTED_ARGUMENTS = frozenset({"tool_strict_level"})

    class GracefulHTTPError(ValueError):  # type: ignore[no-redef]
        """A refused request; the handlers of 0.26 answer 400."""

        def __init__(self, message: str, _status: object) -> None:
            super().__init__(message)

    def init_exception_handler(app: Any) -> None:
        """Do nothing: 0.26 adds handlers only to its own application; our error envelope replaces them."""


__all__ = [
    "CONVERT_MESSAGES",
    "UNSUPPORTED_ARGUMENTS",
    "GracefulHTTPError",
    "init_app_state",
    "init_exception_handler",
    "kv_cache_bytes",
    "load_chat_template",
    "make_arg_parser",
    "validate_parsed_serve_args",
]
