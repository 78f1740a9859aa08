"""Reads training files: one conversation per line, each validated before training."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from loramux_adapters.finetuning.datasets.conversations import Conversation
from loramux_adapters.finetuning.errors import InvalidDataset

MAX_LINE_BYTES = 1 << 20
"""Far more than the context of any base."""
MAX_PROBLEMS = 10

_OTHER_FORMATS = {
    b"\x1f\x8b": "it is compressed with gzip",
    b"PK": "it is a ZIP archive",
    b"PAR1": "it is a Parquet file",
    b"\xff\xfe": "it is in UTF-16, and must be in UTF-8",
    b"\xfe\xff": "it is in UTF-16, and must be in UTF-8",
    b"\xef\xbb\xbf": "it begins with a byte order mark: save it as UTF-8 without one",
    b"[": "it is one JSON list: write one conversation per line",
}


def read_dataset(path: Path) -> list[Conversation]:
    """Read and validate the whole file.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    return list(iter_conversations(path))


def iter_conversations(path: Path) -> Iterator[Conversation]:
    """Yield the conversations of a file of any size.

    Errors are raised where they are found, after valid conversations were yielded: discard those then.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    problems: list[tuple[int, str]] = []
    found = 0
    with path.open("rb") as file:
        _refuse_other_formats(path.name, file.peek(8)[:8])
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            try:
                conversation = parse_conversation(line)
            except ValueError as error:
                problems.append((number, _describe(error)))
                # An overlong line was read in part: what follows is its rest, not the next line.
                if len(problems) == MAX_PROBLEMS or len(line) > MAX_LINE_BYTES:
                    break
                continue
            found += 1
            if not problems:
                yield conversation
    if not found and not problems:
        problems.append((1, "the file is empty"))
    if problems:
        raise InvalidDataset(path.name, problems)


def _refuse_other_formats(name: str, start: bytes) -> None:
    for magic, meaning in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise InvalidDataset(name, [(1, meaning)])


def parse_conversation(line: bytes) -> Conversation:
    """Parse one line of a training file.

    Raises:
        ValueError: it is not a valid conversation.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    if not line.strip():
        raise ValueError("empty line")
    return Conversation.model_validate_json(line)


def _describe(error: ValueError) -> str:
    """Describe what is wrong and where in the line, without repeating the user's text."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
