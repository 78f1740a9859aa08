"""Imports names that differ between vLLM 0.32 and 0.26.

0.26 is the newest version for torch 2.11, which some CUDA machines without network access have. Only the GPU load tests
run there; replacements for missing names cover what those need.
"""

from typing import Any

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.exceptions import GracefulHTTPError
    from vllm.renderers.chat_utils import load_chat_template

    CONVERT_MESSAGES = "to_chat_completion_request"
    """The method that converts a request to /v1/messages."""
    UNSUPPORTED_ARGUMENTS: frozenset[str] = frozenset()
    """Engine arguments that this vLLM does not have; they are ignored."""
except ImportError:
    from vllm.entrypoints.chat_utils import load_chat_template
    from vllm.entrypoints.openai.api_server import init_app_state
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args

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
    "load_chat_template",
    "make_arg_parser",
    "validate_parsed_serve_args",
]
