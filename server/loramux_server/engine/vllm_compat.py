"""What vLLM has in other places in other versions: where 0.32 has it, and where 0.26 does.

0.26 is the newest that is built for torch 2.11, which some CUDA machines without a network have; only the load tests of
loadtests/gpu are run there. What it lacks altogether is made up for as far as they need it.
"""

from typing import Any

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.exceptions import GracefulHTTPError

    LACKING: frozenset[str] = frozenset()
except ImportError:
    from vllm.entrypoints.openai.api_server import init_app_state
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args

    LACKING = frozenset({"tool_strict_level"})

    class GracefulHTTPError(ValueError):  # type: ignore[no-redef]
        """A refusal, of which 0.26's handlers make a 400."""

        def __init__(self, message: str, _status: object) -> None:
            super().__init__(message)

    def init_exception_handler(app: Any) -> None:
        """0.26 has handlers on its own application alone; ours then answers with its envelope."""


__all__ = [
    "LACKING",
    "GracefulHTTPError",
    "init_app_state",
    "init_exception_handler",
    "make_arg_parser",
    "validate_parsed_serve_args",
]
