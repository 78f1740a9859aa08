"""Answers as they come, a line each in a file, so that nothing is lost and a killed comparison goes on."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_loadtests.comparing.errors import ComparisonError

_INSTEAD = "remove it, or name another --output"


class Row(BaseModel):
    """One answer of one arm to one item; times in seconds, None where there is none.

    `scores` are empty if the scorer failed, whose words are in `error` then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    pass_: str
    arm: str
    item: int
    text: str
    scores: dict[str, float]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: float | None
    tpot: float | None
    seconds: float
    error: str | None = None


class Turns(NamedTuple):
    """How long an arm kept the machine busy, with so many answers; a turn that was cut off is not counted."""

    seconds: float
    answers: int


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Name a comparison by what it asks of whom."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    # The order of a set is another one in each process.
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


class Journal:
    """The rows in a file, of the comparison that is named `fingerprint` alone; a context that keeps the file open."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self.rows: list[Row] = []
        self.turns: dict[tuple[str, str], Turns] = {}
        """Those of an arm in a pass together, by the names of both."""

    def __enter__(self) -> "Journal":
        """Read what is there; raises ComparisonError if it is another comparison's."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            end = self._read() if self._path.exists() else 0
            self._file: TextIO = self._path.open("a", encoding="utf-8")
            self._file.truncate(end)
        except OSError as error:
            raise ComparisonError(f"{self._path} can't be written: {error.strerror}") from error
        if not end:
            self._write({"comparison": self._fingerprint})
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Keep a row; a kill of this process does not lose it."""
        self.rows.append(row)
        self._write(row.model_dump())

    def took(self, name: str, arm: str, turn: Turns) -> None:
        """Keep how long an arm's turn took in a pass."""
        self._count(name, arm, turn)
        self._write({"pass": name, "arm": arm, **turn._asdict()})
        os.fsync(self._file.fileno())

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self) -> int:
        """Take in all lines that are whole; returns where they end, in bytes."""
        end = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # a kill fell into it
                self._take(line, first=end == 0)
                end += len(line)
        return end

    def _take(self, line: bytes, *, first: bool) -> None:
        try:
            given = json.loads(line)
            if first:
                self._check(given)
            elif "answers" in given:
                self._count(given["pass"], given["arm"], Turns(float(given["seconds"]), int(given["answers"])))
            else:
                self.rows.append(Row.model_validate(given))
        except (ValueError, ValidationError, TypeError, LookupError) as error:
            raise ComparisonError(f"{self._path} has no rows of a comparison: {_INSTEAD}") from error

    def _count(self, name: str, arm: str, turn: Turns) -> None:
        before = self.turns.get((name, arm), Turns(0.0, 0))
        self.turns[name, arm] = Turns(before.seconds + turn.seconds, before.answers + turn.answers)

    def _check(self, given: Mapping[str, Any]) -> None:
        if given["comparison"] != self._fingerprint:
            raise ComparisonError(
                f"{self._path} has the rows of another comparison (other data, arms, prompts or settings): {_INSTEAD}"
            )
