"""Request rows: one line of JSONL per request, written when the request ends."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError

from loramux_loadtests.client import ChatReply
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import fail_at_line, first_validation_error, json_lines, read_text

MEASURES = ("ttft", "ttft_scheduled", "tpot", "latency", "latency_scheduled")
ABANDONED, NOT_SENT, NO_CONNECTION, TIMEOUT = "abandoned", "not sent", "no connection", "timeout"
MAX_FILE_BYTES = 4 << 30

Phase = Literal["warm-up", "load"]
Seconds = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**12)]


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request. Times are in seconds after the start of the load, or of the warm-up for its requests."""

    number: Count
    phase: Phase
    route: str
    model: str
    """The model that answered, as named by the server."""
    scheduled: Seconds
    sent: Seconds
    first: Seconds | None
    last: Seconds
    input_tokens: Count
    cached_tokens: Count
    output_tokens: Count
    wanted_tokens: Count
    cold: bool
    """Whether the adapter was not requested recently, so that the server may have had to load it."""
    status: int
    error: str | None
    """The kind of error; None if the request was answered."""
    reason: str | None
    request_id: str

    @property
    def lag(self) -> float:
        """Seconds by which the client sent the request late."""
        return self.sent - self.scheduled

    def seconds(self, measure: str) -> float | None:
        """Return one of MEASURES in seconds, or None if it is undefined (TPOT of a single token)."""
        if measure.startswith("latency"):
            return self.last - self._start(measure)
        if self.first is None:
            return None
        if measure == "tpot":
            return (self.last - self.first) / (self.output_tokens - 1) if self.output_tokens > 1 else None
        return self.first - self._start(measure)

    def _start(self, measure: str) -> float:
        return self.scheduled if measure.endswith("_scheduled") else self.sent


_NAMES = tuple(field.name for field in fields(RequestRow))
_ROW = TypeAdapter(RequestRow)


def make_row(
    reply: ChatReply,
    begin: float,
    *,
    number: int,
    phase: Phase,
    route: str,
    wanted_tokens: int,
    cold: bool,
    error: str | None = None,
) -> RequestRow:
    """Make the row of one reply. `begin` is the start of the load on the replies' clock.

    `error` is the kind of error, if it doesn't follow from the reply.
    """
    return RequestRow(
        number=number,
        phase=phase,
        route=route,
        model=reply.model,
        scheduled=reply.scheduled - begin,
        sent=reply.sent - begin,
        first=None if reply.first is None else reply.first - begin,
        last=reply.last - begin,
        input_tokens=reply.input_tokens,
        cached_tokens=reply.cached_tokens,
        output_tokens=reply.output_tokens,
        wanted_tokens=wanted_tokens,
        cold=cold,
        status=reply.status,
        error=error or _error_kind(reply),
        reason=reply.error,
        request_id=reply.request_id,
    )


def _error_kind(reply: ChatReply) -> str | None:
    if reply.error is None:
        return None
    if reply.error.startswith("no answer in time"):
        return TIMEOUT
    if reply.status == 0:
        return NO_CONNECTION
    return "broken stream" if reply.status == 200 else f"http {reply.status}"


class RowWriter:
    """Writes each row to disk at once, so that the file survives a kill.

    The first line describes the load test, the last one how it ended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write_about(self, about: dict[str, Any]) -> None:
        """Write facts about all rows in a line of their own."""
        self._file.write(json.dumps({"about": about}) + "\n")

    def append(self, row: RequestRow) -> None:
        """Write one row, with its measures for other programs."""
        times = {measure: row.seconds(measure) for measure in MEASURES}
        # Not `asdict`, which copies: this is done a thousand times a second.
        self._file.write(json.dumps({name: getattr(row, name) for name in _NAMES} | times) + "\n")


def read_rows(path: Path) -> tuple[dict[str, Any], list[RequestRow]]:
    """Read the facts about all rows of a file, and its rows. An incomplete last line is ignored.

    Raises:
        LoadTestError: the file can't be read, or is not a file of rows.
    """
    text = read_text(path, MAX_FILE_BYTES)
    whole = text if text.endswith("\n") else text.rpartition("\n")[0]
    about: dict[str, Any] = {}
    rows = []
    for number, line in json_lines(path, whole):
        if isinstance(line.get("about"), dict):
            about |= line["about"]
            continue
        try:
            rows.append(_ROW.validate_python(line))
        except ValidationError as error:
            fail_at_line(path, number, f"this is not a row of a load test ({first_validation_error(error)})")
    if not rows:
        raise LoadTestError(f"{path} contains no row of a load test")
    return about, rows


def measured_seconds(rows: Iterable[RequestRow], measure: str) -> list[float]:
    """Return a measure, in seconds, of all answered requests that have it."""
    return [value for row in rows if row.error is None and (value := row.seconds(measure)) is not None]
