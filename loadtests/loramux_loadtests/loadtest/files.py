"""Reading what a user wrote, with the number of the line that is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from loramux_loadtests.loadtest.errors import LoadTestError

MAX_BYTES = 256 << 20


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a file of at most `limit` bytes. LoadTestError if it can't be read."""
    try:
        data = path.read_bytes() if path.stat().st_size <= limit else None
    except (OSError, ValueError) as error:
        raise LoadTestError(f"{path} can't be read: {getattr(error, 'strerror', error)}") from error
    if data is None:
        raise LoadTestError(f"{path} is larger than {limit >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(path, data.count(b"\n", 0, error.start) + 1, "this is not UTF-8")


def json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSONL with the numbers of their lines. LoadTestError at a line that holds none."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            refuse(path, number, f"this is not JSON ({error})")
        if not isinstance(fields, dict):
            refuse(path, number, "this is not a JSON object")
        yield number, fields


def refuse(path: Path, number: int, reason: str) -> NoReturn:
    """Raise LoadTestError for one line."""
    raise LoadTestError(f"{path}, line {number}: {reason}")


def first_reason(error: ValidationError) -> str:
    """What pydantic found wrong, with where it is: above all a name that it does not know."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
