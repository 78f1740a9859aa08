"""Reading users' files; errors name the file and the line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from loramux_loadtests.loadtest.errors import LoadTestError

MAX_BYTES = 256 << 20


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Raises:
        LoadTestError: the file can't be read, has more than `limit` bytes or is not UTF-8.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= limit else None
    except (OSError, ValueError) as error:
        raise LoadTestError(f"{path} can't be read: {getattr(error, 'strerror', error)}") from error
    if data is None:
        raise LoadTestError(f"{path} is larger than {limit >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail_at_line(path, data.count(b"\n", 0, error.start) + 1, "this is not UTF-8")


def json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of each line of JSONL that is not blank.

    Raises:
        LoadTestError: a line is not a JSON object.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            fail_at_line(path, number, f"this is not JSON ({error})")
        if not isinstance(fields, dict):
            fail_at_line(path, number, "this is not a JSON object")
        yield number, fields


def fail_at_line(path: Path, number: int, reason: str) -> NoReturn:
    """Fail because of one line.

    Raises:
        LoadTestError: always; names the file and the line.
    """
    raise LoadTestError(f"{path}, line {number}: {reason}")


def first_validation_error(error: ValidationError) -> str:
    """Return the most useful error and its field: an unknown name explains the errors that follow from it."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
