"""Reads files of JSON lines, one object per line; blank lines and byte order marks are skipped."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from loramux_adapters.finetuning.errors import InvalidDataset

MAX_LINE_BYTES = 1 << 20
"""Far more than the context of any base."""
MAX_PROBLEMS = 10
CONVERT = "convert the file with `loramux data convert FILE OUT`"
"""The way out for files in other formats."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FILES = {
    b"\x1f\x8b": "it is compressed with gzip: decompress it",
    b"PK": "it is a ZIP archive: unpack it",
    b"PAR1": "it is a Parquet file: write one JSON object per line, as `to_json(lines=True)` of pandas does",
}
_OTHER_LAYOUTS = {
    b"\xff\xfe": f"it is in UTF-16, and must be in UTF-8: {CONVERT}",
    b"\xfe\xff": f"it is in UTF-16, and must be in UTF-8: {CONVERT}",
    b"[": f"it is one JSON list, and must have one example per line: {CONVERT}",
}
_Parsed = TypeVar("_Parsed")


class OtherFormat(ValueError):  # noqa: N818 - it says what was found
    """A line of a file in another format: the lines after it would be refused for the same reason."""


def iter_lines(path: Path, parse: Callable[[bytes, int], _Parsed], name: str | None = None) -> Iterator[_Parsed]:
    """Yield what `parse` makes of each line and its number; errors call the file `name`, by default as on the disk.

    Errors are raised where they are found, after valid lines were yielded: discard those then. `parse` raises
    ValueError to refuse a line.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    name = name or path.name
    problems: list[tuple[int, str]] = []
    found = 0
    with path.open("rb") as file:
        refuse_other_files(name, file.peek(64)[:64])
        for number, line in _numbered_lines(file):
            found += 1
            try:
                parsed = parse(line, number)
            except ValueError as error:
                problems.append((number, describe_error(error)))
                if len(problems) == MAX_PROBLEMS or isinstance(error, OtherFormat):
                    break
                continue
            if not problems:
                yield parsed
    if not found:
        problems.append((1, "the file is empty"))
    if problems:
        raise InvalidDataset(name, problems)


def _numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with content, and their numbers; an overlong one in part and as the last."""
    for number in count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        is_overlong = len(line) > MAX_LINE_BYTES
        if line and (is_overlong or not is_blank(line)):
            yield number, line
        if not line or is_overlong:
            return


def is_blank(line: bytes) -> bool:
    """Return whether a line has no content."""
    return not line.removeprefix(_BYTE_ORDER_MARK).strip()


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse the JSON object of a line.

    Raises:
        ValueError: it is longer than MAX_LINE_BYTES, or not one JSON object.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes: split the conversation, or remove what is not needed")
    try:
        document = from_json(line.removeprefix(_BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"Invalid JSON: {error}; expected one whole JSON object per line") from error
    if not isinstance(document, dict):
        raise ValueError(f'a JSON {_json_type(document)}; expected an object, such as {{"messages": [...]}}')
    return document


def describe_error(error: ValueError) -> str:
    """Describe what is wrong and where in the line, without repeating the user's text."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def refuse_other_files(name: str, start: bytes, *, allow_layouts: bool = False) -> None:
    """Refuse a file by how it starts; `allow_layouts` accepts JSON in UTF-16 and in a list.

    Raises:
        InvalidDataset: says what the file is, and what to do.
    """
    content = start.removeprefix(_BYTE_ORDER_MARK).lstrip()
    for magic, meaning in (_OTHER_FILES if allow_layouts else _OTHER_FILES | _OTHER_LAYOUTS).items():
        if content.startswith(magic):
            raise InvalidDataset(name, [(1, meaning)])


def _json_type(value: object) -> str:
    names = {list: "list", str: "string", bool: "Boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
