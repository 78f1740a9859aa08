"""The reference of the command line, from the help of its commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import typer
from tools.docs.markdown import NOTICE, code, table

from loramux_server.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

SPLIT_NOTES = re.compile(r"^(?P<help>.*?)(?:\s*\[(?P<notes>(?:env var|default|required)\b.*)\])?$", re.DOTALL)
"""The help of a parameter, and the notes in brackets that typer adds at its end."""


def cli_page() -> str:
    """Return the page that describes every command."""
    commands = [_section(name, command) for name, command in _commands("loramux", typer.main.get_command(main))]
    return "\n".join([NOTICE, "# Command line\n", "As each command prints with `--help`.\n", *commands])


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child in getattr(command, "commands", {}).values():
        if not child.hidden:
            yield from _commands(f"{name} {child.name}", child)


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    level = "##" if len(name.split()) < 3 else "###"
    lines = [f"{level} {name}\n", f"{_help(command.help or '')}\n", f"```\n{command.get_usage(context)}\n```\n"]
    rows = [_row(context, parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        lines.append(table(["argument or option", "description", ""], rows) + "\n")
    return "\n".join(lines)


def _help(text: str) -> str:
    """Return a help text as Markdown; typer marks paragraphs that keep their lines by a backspace."""
    return text.replace("\b", "").strip()


def _row(context: typer.Context, parameter: Any) -> tuple[str, str, str]:
    syntax, text = parameter.get_help_record(context)
    found = SPLIT_NOTES.fullmatch(text)
    if found is None:  # the pattern takes any text
        raise ValueError(f"{syntax}: the help text can't be split into text and notes")
    return code(syntax), found["help"], found["notes"] or ""
