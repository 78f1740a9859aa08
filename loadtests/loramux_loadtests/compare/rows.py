"""Answers as they come, a line each in a file, so that nothing is lost and a killed comparison goes on."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_loadtests.compare.errors import ComparisonError

_INSTEAD = "remove it, or name another --output"


Key = tuple[str, str, int]
"""Which answer: its pass, arm and item."""


class Answer(BaseModel):
    """One answer of one arm to one item; times in seconds, None where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pass_: str
    arm: str
    item: int
    text: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: float | None
    tpot: float | None
    seconds: float

    @property
    def key(self) -> Key:
        """Which answer it is."""
        return (self.pass_, self.arm, self.item)


class Row(Answer):
    """An answer with its scores, which are empty if the scorer failed; its words are in `error` then."""

    scores: dict[str, float]
    error: str | None = None


class Turn(NamedTuple):
    """How long an arm kept the machine busy with a few answers; one that was cut off is not counted."""

    seconds: float
    answers: int


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Name a comparison by what it asks of whom."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    # The order of a set is another one in each process.
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


class Journal:
    """What the comparison named `fingerprint` has so far, in a file; a context that keeps the file open.

    Scores are those by the scorer that is named `scorer`: another one finds the answers, and scores them anew.
    """

    def __init__(self, path: Path, fingerprint: str, scorer: str = "") -> None:
        self._path, self._fingerprint, self._scorer = path, fingerprint, scorer
        self.answers: list[Answer] = []
        self.scores: dict[Key, dict[str, float]] = {}
        self.turns: dict[tuple[str, str], list[Turn]] = {}
        """By pass and arm, as they came."""

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

    def add(self, answer: Answer) -> None:
        """Keep an answer; a kill of this process does not lose it."""
        self.answers.append(answer)
        self._write(answer.model_dump())

    def took(self, name: str, arm: str, turn: Turn) -> None:
        """Keep how long an arm's turn took in a pass."""
        self.turns.setdefault((name, arm), []).append(turn)
        self._write({"pass": name, "arm": arm, **turn._asdict()})
        os.fsync(self._file.fileno())

    def scored(self, key: Key, scores: dict[str, float]) -> None:
        """Keep what the scorer gave an answer."""
        self.scores[key] = scores
        self._write({"scorer": self._scorer, "of": key, "scores": scores})

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
                turn = Turn(float(given["seconds"]), int(given["answers"]))
                self.turns.setdefault((given["pass"], given["arm"]), []).append(turn)
            elif "scorer" in given:
                self._take_scores(given)
            else:
                self.answers.append(Answer.model_validate(given))
        except (ValueError, ValidationError, TypeError, LookupError) as error:
            raise ComparisonError(f"{self._path} has no rows of a comparison: {_INSTEAD}") from error

    def _take_scores(self, given: Mapping[str, Any]) -> None:
        if given["scorer"] == self._scorer:
            name, arm, item = given["of"]
            self.scores[name, arm, item] = {score: float(value) for score, value in given["scores"].items()}

    def _check(self, given: Mapping[str, Any]) -> None:
        if given["comparison"] != self._fingerprint:
            raise ComparisonError(
                f"{self._path} has the rows of another comparison (other data, arms, prompts or settings): {_INSTEAD}"
            )
