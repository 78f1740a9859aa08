"""What each request left: a line of JSONL, written when the request ended."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError

from loramux_loadtests.client import Reply
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import first_reason, json_lines, read_text, refuse

MEASURES = ("ttft", "ttft_scheduled", "tpot", "latency", "latency_scheduled")
ABANDONED, NOT_SENT, NO_CONNECTION, TIMEOUT = "abandoned", "not sent", "no connection", "timeout"
MAX_FILE_BYTES = 4 << 30

Phase = Literal["warm-up", "load"]
Moment = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**12)]


@dataclass(frozen=True, slots=True)
class Row:
    """One request. Moments are seconds after the load began; those of the warm-up, after it began itself."""

    number: Count
    phase: Phase
    route: str
    model: str
    """The model that answered, as the server names it."""
    scheduled: Moment
    sent: Moment
    first: Moment | None
    last: Moment
    input_tokens: Count
    cached_tokens: Count
    output_tokens: Count
    wanted_tokens: Count
    cold: bool
    """Whether nobody had asked for this adapter lately, so that it may have had to be loaded."""
    status: int
    error: str | None
    """The kind of error, None for an answer."""
    reason: str | None
    request_id: str

    @property
    def lag(self) -> float:
        """Seconds that the client was late."""
        return self.sent - self.scheduled

    def measured(self, measure: str) -> float | None:
        """One of MEASURES, in seconds; None where there is none, as of a single token's time per token."""
        if measure.startswith("latency"):
            return self.last - self._begin(measure)
        if self.first is None:
            return None
        if measure == "tpot":
            return (self.last - self.first) / (self.output_tokens - 1) if self.output_tokens > 1 else None
        return self.first - self._begin(measure)

    def _begin(self, measure: str) -> float:
        return self.scheduled if measure.endswith("_scheduled") else self.sent


_NAMES = tuple(field.name for field in fields(Row))
_ROW = TypeAdapter(Row)


def row_of(
    reply: Reply,
    begin: float,
    *,
    number: int,
    phase: Phase,
    route: str,
    wanted_tokens: int,
    cold: bool,
    error: str | None = None,
) -> Row:
    """What one reply leaves, of a load that began at the moment `begin` of the replies' clock.

    `error` is its kind, where that does not follow from the reply.
    """
    return Row(
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
        error=error or _kind(reply),
        reason=reply.error,
        request_id=reply.request_id,
    )


def _kind(reply: Reply) -> str | None:
    if reply.error is None:
        return None
    if reply.error.startswith("no answer in time"):
        return TIMEOUT
    if reply.status == 0:
        return NO_CONNECTION
    return "broken stream" if reply.status == 200 else f"http {reply.status}"


class RowFile:
    """Rows on disk, each as soon as it is there: what is in the file survives a kill.

    Its first line tells what the load test is, its last one how it ended.
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

    def note(self, about: dict[str, Any]) -> None:
        """Write what is true of all rows, in a line of its own."""
        self._file.write(json.dumps({"about": about}) + "\n")

    def append(self, row: Row) -> None:
        """Write one row, with its times for who reads the file without this module."""
        times = {measure: row.measured(measure) for measure in MEASURES}
        # Not `asdict`, which copies: this is done a thousand times a second.
        self._file.write(json.dumps({name: getattr(row, name) for name in _NAMES} | times) + "\n")


def read_rows(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What is true of all rows of a file, and the rows. A last line that a kill cut off is left out.

    LoadTestError for a file of something else.
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
            refuse(path, number, f"this is no row of a load test ({first_reason(error)})")
    if not rows:
        raise LoadTestError(f"{path} holds no row of a load test")
    return about, rows


def measured(rows: Iterable[Row], measure: str) -> list[float]:
    """A measure of all rows that have it."""
    return [value for row in rows if row.error is None and (value := row.measured(measure)) is not None]
