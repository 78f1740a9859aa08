"""From settings to vLLM's arguments: its own parser and its own names, so that its documentation holds here too."""

import difflib
import json
from argparse import Action, BooleanOptionalAction, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from vllm.utils.argparse_utils import FlexibleArgumentParser

from loramux_server.engine.vllm_compat import LACKING, make_arg_parser, validate_parsed_serve_args
from loramux_server.errors import CannotStart

RESERVED = {
    "model": "LORAMUX_BASE",
    "model_tag": "LORAMUX_BASE",
    "host": "LORAMUX_HOST",
    "port": "LORAMUX_PORT",
    "api_key": "LORAMUX_API_KEYS",
    "config": "loramux.yaml",
    "lora_modules": "`loramux adapter add`",
    "enable_lora": "nothing: it is always on",
    "middleware": "nothing: it has no place here",
    "worker_extension_cls": "nothing: loramux has one of its own",
    "disable_log_stats": "nothing: corrupted answers are found by them",
    "scheduler_cls": "nothing: loramux hands out clean blocks through it",
}
"""Arguments of vLLM that loramux decides itself, and what to use instead."""

EXTENSION = "loramux_server.engine.worker.extension.WorkerExtension"
"""By name, because vLLM imports it in its workers and we never need to."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for `max_lora_rank`."""


class EngineArgumentError(CannotStart):
    """A name or value under `engine` that vLLM would not take; the message names the setting."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise EngineArgumentError(f"LORAMUX_ENGINE__*: vLLM says: {message}")


def rank_limit(ranks: list[int]) -> int:
    """The smallest `max_lora_rank` that admits adapters of all these ranks, at least vLLM's default of 16.

    A limit that is higher than needed costs speed and memory on every request that uses an adapter.
    """
    return next((limit for limit in RANKS if limit >= max([16, *ranks])), RANKS[-1])


def engine_arguments(base: Path, name: str, options: Mapping[str, Any]) -> Namespace:
    """Parse `options` (vLLM's argument names, with underscores) for the base in the folder `base`, served as `name`.

    Raises:
        EngineArgumentError: an unknown or reserved name, or a value that vLLM refuses.

    """
    parser = make_arg_parser(_Parser())
    actions = {action.dest: action for action in parser._actions}
    fixed = {"model": str(base), "served_model_name": [name], "enable_lora": True, "worker_extension_cls": EXTENSION}
    words = [
        word for key, value in options.items() if key not in LACKING for word in _words(_action(actions, key), value)
    ]
    words += [word for key, value in fixed.items() for word in _words(actions[key], value)]
    arguments: Namespace = parser.parse_args(words)
    try:
        validate_parsed_serve_args(arguments)
    except (TypeError, ValueError) as error:
        raise EngineArgumentError(f"LORAMUX_ENGINE__*: vLLM says: {error}") from error
    return arguments


def _action(actions: Mapping[str, Action], name: str) -> Action:
    if name in RESERVED:
        raise EngineArgumentError(f"the engine's `{name}` is not set directly: use {RESERVED[name]}")
    if name not in actions:
        close = difflib.get_close_matches(name, actions, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise EngineArgumentError(f"vLLM has no argument `{name}`{hint}")
    return actions[name]


def _words(action: Action, value: Any) -> Iterator[str]:
    """`value` as it would stand on vLLM's command line."""
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
