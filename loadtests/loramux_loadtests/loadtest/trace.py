"""Recorded traffic: a CSV or JSONL file with one request per line."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import fail_at_line, first_validation_error, json_lines, read_text

COLUMNS = ("seconds", "route", "input_tokens", "output_tokens")

Tokens = Annotated[int, Field(ge=1, le=10_000_000)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    route: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line of a trace. The scenario supplies the values that are None."""

    at: float
    """Seconds after the first request of the trace."""
    route: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def read_trace(path: Path) -> list[TraceRequest]:
    """Read the requests of a trace, whose first one has time 0.

    Raises:
        LoadTestError: the file can't be read, or a line of it is invalid.
    """
    text = read_text(path)
    lines = json_lines(path, text) if path.suffix in (".jsonl", ".ndjson") else _csv_lines(path, text)
    recorded: list[TraceRequest] = []
    for number, fields in lines:
        line = _checked(path, number, fields)
        if recorded and line.at < recorded[-1].at:
            fail_at_line(path, number, f"{line.at:g} s follows {recorded[-1].at:g} s: sort the file by time")
        recorded.append(line)
    if not recorded:
        raise LoadTestError(f"{path} contains no request")
    begin = recorded[0].at
    return [replace(line, at=line.at - begin) for line in recorded]


def at_rate(recorded: Sequence[TraceRequest], rate: float) -> list[TraceRequest]:
    """Scale the times so that there are `rate` requests per second on average.

    Raises:
        LoadTestError: all requests have the same time.
    """
    span = recorded[-1].at
    if span <= 0:
        raise LoadTestError(
            "all requests of the trace have the same time, so it can't be replayed at another rate: remove `rate`"
        )
    factor = (len(recorded) - 1) / rate / span
    return [replace(line, at=line.at * factor) for line in recorded]


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    columns: Sequence[str] = COLUMNS
    try:
        for position, cells in enumerate(row for row in reader if row):
            if position == 0 and cells[0].strip() in COLUMNS:
                columns = [cell.strip() for cell in cells]
                continue
            if len(cells) > len(columns):
                fail_at_line(path, reader.line_num, f"{len(cells)} cells, but {len(columns)} columns")
            pairs = zip(columns, (cell.strip() for cell in cells), strict=False)
            yield reader.line_num, {name: cell for name, cell in pairs if cell}
    except csv.Error as error:
        fail_at_line(path, reader.line_num, f"this is not CSV ({error})")


def _checked(path: Path, number: int, fields: dict[str, Any]) -> TraceRequest:
    try:
        line = _Line.model_validate(fields)
    except ValidationError as error:
        fail_at_line(path, number, first_validation_error(error))
    return TraceRequest(line.seconds, line.route, line.input_tokens, line.output_tokens)
