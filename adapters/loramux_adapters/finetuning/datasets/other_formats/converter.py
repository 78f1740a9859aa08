"""Converts a file of training data in another format to OpenAI's, and checks each line that it writes."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.conversations import parse_conversation
from loramux_adapters.finetuning.datasets.ignored_keys import IgnoredKeys, KeyFilter, without_nulls
from loramux_adapters.finetuning.datasets.kinds import Kind
from loramux_adapters.finetuning.datasets.lines import MAX_PROBLEMS, describe_error
from loramux_adapters.finetuning.datasets.other_formats.documents import Unreadable, iter_documents
from loramux_adapters.finetuning.datasets.other_formats.formats import READ_KEYS, find_format
from loramux_adapters.finetuning.datasets.preferences import is_preference, parse_preference
from loramux_adapters.finetuning.errors import InvalidDataset
from loramux_adapters.fsync import fsync_path

OPENAI_FORMAT = "OpenAI's format"


class ConversionReport(BaseModel):
    """What a conversion read and wrote."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    formats: dict[str, int]
    """The number of examples by the name of their format, the commonest first."""
    written: int
    left_out: int
    """Examples that could not be converted."""
    problems: tuple[tuple[int, str], ...]
    """The first of them: line (in a list: the number of the item) and reason."""
    warnings: tuple[str, ...]


def convert_file(source: Path, target: Path, *, skip_invalid: bool = False) -> ConversionReport:
    """Write the examples of `source` in OpenAI's format to the new file `target`, one per line.

    With `skip_invalid`, examples that can't be converted are left out and reported; otherwise nothing is written.

    Raises:
        InvalidDataset: the source can't be read, or has examples that can't be converted; the first are named.
        FileExistsError: the target exists.
        OSError: a file can't be read or written.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists: choose the name of a new file")
    conversion = _Conversion()
    for line, document in iter_documents(source):
        conversion.add(line, document)
    if not conversion.lines or (conversion.problems and not skip_invalid):
        raise InvalidDataset(source.name, conversion.problems[:MAX_PROBLEMS] or [(1, "the file has no examples")])
    _write(target, conversion.lines)
    return conversion.report()


class _Conversion:
    """The lines converted so far."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.problems: list[tuple[int, str]] = []
        self._kind: Kind | None = None
        self._formats: Counter[str] = Counter()
        self._ignored = IgnoredKeys()

    def add(self, line: int, document: Any) -> None:
        """Convert one example; one that can't be converted becomes a problem."""
        try:
            self._convert(document)
        except RecursionError:
            self.problems.append((line, "too many nested brackets"))
        except UnicodeError:
            self.problems.append((line, "it has a character that UTF-8 can't have (a surrogate): remove it"))
        except ValueError as error:
            self.problems.append((line, describe_error(error)))

    def _convert(self, document: Any) -> None:
        if isinstance(document, Unreadable):
            raise ValueError(document.reason)
        if not isinstance(document, dict):
            raise ValueError("expected an object")
        given = without_nulls(document)
        found = find_format(given)
        if found and not found.convert:
            raise ValueError(f"it is {found.name}: {found.way_out}")
        converted = found.convert(given) if found and found.convert else given
        raw = json.dumps(converted, ensure_ascii=False).encode()
        kind: Kind = "preference" if is_preference(converted) else "chat"
        parsed = parse_preference(raw) if kind == "preference" else parse_conversation(raw)
        if kind != (self._kind or kind):
            raise ValueError("the file has conversations and preference pairs: write them to two files")
        self._kind = kind
        dropped = KeyFilter()
        if found:
            dropped.keep(given, READ_KEYS)
        self._ignored.add(parsed.ignored_keys | dropped.ignored)
        self._formats[found.name if found else OPENAI_FORMAT] += 1
        self.lines.append(raw)

    def report(self) -> ConversionReport:
        """Return the report on all lines."""
        return ConversionReport(
            kind=self._kind or "chat",
            formats=dict(self._formats.most_common()),
            written=len(self.lines),
            left_out=len(self.problems),
            problems=tuple(self.problems[:MAX_PROBLEMS]),
            warnings=tuple(self._ignored.warnings()),
        )


def _write(target: Path, lines: Iterable[bytes]) -> None:
    """Write the file completely or not at all."""
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        part.rename(target)
        fsync_path(target.parent)
    finally:
        part.unlink(missing_ok=True)
