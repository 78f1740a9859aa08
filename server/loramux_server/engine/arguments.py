"""Parses engine settings with vLLM's own argument parser, so names and values are those of vLLM's documentation."""

import difflib
import json
from argparse import Action, BooleanOptionalAction, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from vllm.utils.argparse_utils import FlexibleArgumentParser

from loramux_server.engine.refused_arguments import refusal
from loramux_server.engine.tool_template import NAME as TOOLS_TEMPLATE
from loramux_server.engine.tool_template import with_tools
from loramux_server.engine.vllm_compat import UNSUPPORTED_ARGUMENTS, make_arg_parser, validate_parsed_serve_args
from loramux_server.errors import CannotStart

WORKER_EXTENSION = "loramux_server.engine.worker.extension.WorkerExtension"
"""A name and not an import: only vLLM's workers import it."""


class EngineArgumentError(CannotStart):
    """An invalid name or value under the setting `engine`."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise EngineArgumentError(f"LORAMUX_ENGINE__*: vLLM refused it: {message}")


def engine_arguments(
    base: Path, name: str, options: Mapping[str, Any], *, enable_lora: bool = True, enable_sleep_mode: bool = False
) -> Namespace:
    """Parse `options` (vLLM's argument names, with underscores) for the base in the folder `base`, served as `name`.

    `enable_lora` is off for a base that vLLM serves without adapters; `enable_sleep_mode` lets the engine free its
    memory.

    Raises:
        EngineArgumentError: an unknown or reserved name, or a value that vLLM refuses.
        CannotStart: the base can't have the chat template `chatml-tools`.
    """
    parser = make_arg_parser(_Parser())
    actions = {action.dest: action for action in parser._actions}
    fixed = {
        "model": str(base),
        "served_model_name": [name],
        "enable_lora": enable_lora,
        "enable_sleep_mode": enable_sleep_mode,
        "worker_extension_cls": WORKER_EXTENSION,
    }
    if options.get("chat_template") == TOOLS_TEMPLATE:
        options = {**options, "chat_template": with_tools(base)}
    left_out = UNSUPPORTED_ARGUMENTS | ({"max_lora_rank"} if options.get("max_lora_rank") == "auto" else set())
    supported = [(key, value) for key, value in options.items() if key not in left_out]
    command_line = [text for key, value in supported for text in _command_line(_find_action(actions, key), value)]
    command_line += [text for key, value in fixed.items() for text in _command_line(actions[key], value)]
    arguments: Namespace = parser.parse_args(command_line)
    try:
        validate_parsed_serve_args(arguments)
    except (TypeError, ValueError) as error:
        raise EngineArgumentError(f"LORAMUX_ENGINE__*: vLLM refused it: {error}") from error
    return arguments


def _find_action(actions: Mapping[str, Action], name: str) -> Action:
    if reason := refusal(name):
        raise EngineArgumentError(f"the engine argument `{name}` can't be set: {reason}")
    if name not in actions:
        close = difflib.get_close_matches(name, actions, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise EngineArgumentError(f"unknown vLLM argument `{name}`{hint}")
    return actions[name]


def _command_line(action: Action, value: Any) -> Iterator[str]:
    """Yield the arguments of vLLM's command line that set `value`."""
    flag = action.option_strings[0]
    match value:
        case None:
            return
        case bool() if isinstance(action, BooleanOptionalAction):
            yield flag if value else f"--no-{flag.removeprefix('--')}"
        case bool():
            if value:
                yield flag
        case list() | tuple():
            yield flag
            yield from map(str, value)
        case dict():
            yield f"{flag}={json.dumps(value)}"
        case _:
            yield f"{flag}={value}"
