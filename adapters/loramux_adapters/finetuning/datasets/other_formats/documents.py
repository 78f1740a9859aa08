"""Reads the objects of a JSON file of any layout: one per line, a list, or several pretty-printed ones."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.finetuning.datasets.lines import refuse_other_files
from loramux_adapters.finetuning.errors import InvalidDataset

_BLANKS = " \t\r\n\ufeff"


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value that is not JSON."""

    reason: str


def iter_documents(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a file in any of Unicode's encodings, each with the number of the line it begins in.

    The items of a list are numbered instead. A line where no value can be read is yielded as Unreadable.

    Raises:
        InvalidDataset: it is not a text file of JSON, or is empty.
        OSError: the file can't be read.
    """
    raw = path.read_bytes()
    refuse_other_files(path.name, raw[:64], allow_layouts=True)
    try:
        text = raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidDataset(path.name, [(line, f"it is not Unicode text: {error.reason}")]) from error
    if not text.strip(_BLANKS):
        raise InvalidDataset(path.name, [(1, "the file is empty")])
    for line, value in _iter_values(text):
        yield from enumerate(value, start=1) if isinstance(value, list) else [(line, value)]


def _iter_values(text: str) -> Iterator[tuple[int, Any]]:
    """Yield each value with its line; Unreadable where there is none, and go on with the next line."""
    decoder, position, line = json.JSONDecoder(), 0, 1
    while (start := _skip_blanks(text, position)) < len(text):
        line += text.count("\n", position, start)
        try:
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            value, position = Unreadable(f"Invalid JSON: {error.msg}"), _next_line(text, start)
        except RecursionError:
            value, position = Unreadable("Invalid JSON: too many nested brackets"), _next_line(text, start)
        yield line, value
        line += text.count("\n", start, position)


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in _BLANKS:
        position += 1
    return position


def _next_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end
