"""A log of answers in a JSONL file, from which an interrupted comparison resumes."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_loadtests.compare.errors import ComparisonError

_REMEDY = "remove it, or choose another --output"

AnswerKey = tuple[str, str, int]
"""Pass, arm and item of an answer."""


class MeasuredAnswer(BaseModel):
    """One answer of one arm to one item; times are in seconds, None where not measured."""

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
    finish_reason: str | None = None
    """Why the answer ended: `length` if it was cut off; None if unknown, as in files of earlier releases."""

    @property
    def key(self) -> AnswerKey:
        """Pass, arm and item."""
        return (self.pass_, self.arm, self.item)


class ScoredAnswer(MeasuredAnswer):
    """An answer with its scores; they are empty if the scorer failed, and `error` has its message then."""

    scores: dict[str, float]
    error: str | None = None


class Batch(NamedTuple):
    """The time that one arm kept the machine busy with a few answers; an interrupted batch is not recorded."""

    seconds: float
    answers: int


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a hash of everything that the answers depend on, the same in every process."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=_to_json_value).encode()).hexdigest()[:16]


def _to_json_value(value: object) -> object:
    # The order of a set differs between processes.
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


class AnswerLog:
    """The answers so far of the comparison with this `fingerprint`; a context manager that holds the file open.

    Only scores by the scorer with the fingerprint `scorer` are loaded; another scorer scores the answers again.
    `outdated` is the fingerprint that releases up to 0.2 gave the same comparison, whose requests lacked something.
    """

    def __init__(self, path: Path, fingerprint: str, scorer: str = "", *, outdated: str = "") -> None:
        self._path, self._fingerprint, self._scorer, self._outdated = path, fingerprint, scorer, outdated
        self.answers: list[MeasuredAnswer] = []
        self.scores: dict[AnswerKey, dict[str, float]] = {}
        self.batches: dict[tuple[str, str], list[Batch]] = {}
        """By pass and arm, in order."""

    def __enter__(self) -> "AnswerLog":
        """Load the file, if it exists, and open it for appending.

        Raises:
            ComparisonError: it can't be written, or belongs to another comparison.
        """
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

    def add(self, answer: MeasuredAnswer) -> None:
        """Append an answer; it survives a kill of this process."""
        self.answers.append(answer)
        self._write(answer.model_dump())

    def add_batch(self, pass_: str, arm: str, batch: Batch) -> None:
        """Append the time of a batch."""
        self.batches.setdefault((pass_, arm), []).append(batch)
        self._write({"pass": pass_, "arm": arm, **batch._asdict()})
        os.fsync(self._file.fileno())

    def add_scores(self, key: AnswerKey, scores: dict[str, float]) -> None:
        """Append the scores of an answer."""
        self.scores[key] = scores
        self._write({"scorer": self._scorer, "of": key, "scores": scores})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self) -> int:
        """Load all complete lines, and return the offset of their end in bytes."""
        end = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # cut off by a kill
                self._load_line(line, first=end == 0)
                end += len(line)
        return end

    def _load_line(self, line: bytes, *, first: bool) -> None:
        try:
            document = json.loads(line)
            if first:
                self._check_fingerprint(document)
            elif "answers" in document:
                batch = Batch(float(document["seconds"]), int(document["answers"]))
                self.batches.setdefault((document["pass"], document["arm"]), []).append(batch)
            elif "scorer" in document:
                self._load_scores(document)
            else:
                self.answers.append(MeasuredAnswer.model_validate(document))
        except (ValueError, ValidationError, TypeError, LookupError) as error:
            raise ComparisonError(f"{self._path} is not the answers of a comparison: {_REMEDY}") from error

    def _load_scores(self, document: Mapping[str, Any]) -> None:
        if document["scorer"] == self._scorer:
            name, arm, item = document["of"]
            self.scores[name, arm, item] = {score: float(value) for score, value in document["scores"].items()}

    def _check_fingerprint(self, document: Mapping[str, Any]) -> None:
        found = document["comparison"]
        if found == self._fingerprint:
            return
        if found == self._outdated:
            raise ComparisonError(
                f"{self._path} has answers of loramux 0.2 or earlier, which did not send the items' system messages: "
                f"{_REMEDY}"
            )
        raise ComparisonError(
            f"{self._path} has the answers of another comparison (other data, arms, prompts or settings): {_REMEDY}"
        )
