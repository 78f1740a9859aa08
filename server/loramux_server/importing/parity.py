"""Compares each old model with its successor on held-out examples, by the engine of `loramux compare`.

The old model's answers are recorded first, before anything is trained, and kept: when it no longer answers, the same
comparison can be made with them again.
"""

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from loramux_adapters.evaluation.items import Item
from loramux_loadtests.compare.answer_log import AnswerLog, MeasuredAnswer, fingerprint
from loramux_loadtests.compare.automatic import AutoScorer
from loramux_loadtests.compare.errors import ComparisonError, RequestFailedError
from loramux_loadtests.compare.items import read_items
from loramux_loadtests.compare.plan import Arm, Comparison
from loramux_loadtests.compare.reading import CompareOptions
from loramux_loadtests.compare.runner import RunSettings, run_comparison
from loramux_loadtests.compare.session import compare
from loramux_loadtests.compare.summary import ComparisonSummary
from loramux_server.importing.errors import ImportingError
from loramux_server.importing.folder import ImportFolder, write_durably
from loramux_server.importing.held_out import as_items, split_lines
from loramux_server.importing.plan import PlannedJob

OLD, NEW = "old", "new"
"""The arms of a comparison."""
MAX_FAILURES = 5
"""Failures in a row, without an answer in between, after which an old model is given up for this run."""
FIRST_WAIT_SECONDS = 1.0
_MIN_TOKENS, _MAX_TOKENS, _CHARACTERS_PER_TOKEN = 64, 2048, 2
_PERMANENT = frozenset({400, 401, 403, 404, 410})
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class OldModel:
    """Where an old model answers."""

    url: str
    key: SecretStr | None


@dataclass(frozen=True)
class HeldOut:
    """The items that both models are asked, and the limit of their answers."""

    items: Sequence[Item]
    max_tokens: int
    data: str
    """Their fingerprint."""

    def keep(self, numbers: Sequence[int]) -> "HeldOut":
        """Only these items."""
        items = [self.items[number] for number in numbers]
        return HeldOut(items, self.max_tokens, fingerprint({"items": items}))


def read_held_out(folder: ImportFolder, planned: PlannedJob, limit: int) -> HeldOut:
    """Read a job's held-out items, at most `limit`: always the same ones.

    Raises:
        ImportingError: there are none, or they can't be asked.
    """
    if planned.held_out is None:
        raise ImportingError("there are no held-out examples")
    path = folder.root / "items" / f"{planned.held_out.sha256}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = as_items(split_lines(folder.path(planned.held_out.sha256).read_bytes()))
    write_durably(path, b"\n".join(lines) + b"\n")
    try:
        items = read_items(path).items
    except ComparisonError as error:
        raise ImportingError(str(error)) from error
    chosen = sorted(random.Random(0).sample(range(len(items)), min(limit, len(items))))  # noqa: S311 - a choice
    items = [items[number] for number in chosen]
    longest = max(len(item.expected) for item in items)
    tokens = min(_MAX_TOKENS, max(_MIN_TOKENS, longest // _CHARACTERS_PER_TOKEN))
    return HeldOut(items, tokens, fingerprint({"items": items}))


class Parity:
    """Recordings and comparisons in the folder of an import."""

    def __init__(self, folder: ImportFolder, settings: RunSettings | None = None) -> None:
        self._folder, self._settings = folder, settings or RunSettings()

    def record(
        self, planned: PlannedJob, held_out: HeldOut, old: OldModel, on_answer: Callable[[], None]
    ) -> str | None:
        """Ask an old model what was not asked before; return why answers are missing, None if none is."""
        log_path, print_ = self._recording(planned, held_out)
        failures, wait = 0, FIRST_WAIT_SECONDS
        while True:
            before = len(self.recorded(planned, held_out))
            try:
                asyncio.run(
                    self._ask(_comparison(planned, held_out, [_old_arm(planned, old)]), log_path, print_, on_answer)
                )
            except RequestFailedError as error:
                failures = 1 if len(self.recorded(planned, held_out)) > before else failures + 1
                if error.status in _PERMANENT or failures == MAX_FAILURES:
                    return str(error)
                time.sleep(wait)
                wait *= 2
            else:
                return None

    async def _ask(self, comparison: Comparison, path: Path, print_: str, on_answer: Callable[[], None]) -> None:
        with AnswerLog(path, print_) as log:
            await run_comparison(comparison, self._settings, log, on_answer)

    def recorded(self, planned: PlannedJob, held_out: HeldOut) -> list[MeasuredAnswer]:
        """The old model's answers so far."""
        path, print_ = self._recording(planned, held_out)
        if not path.exists():
            return []
        with AnswerLog(path, print_) as log:
            return list(log.answers)

    def _recording(self, planned: PlannedJob, held_out: HeldOut) -> tuple[Path, str]:
        facts = {"model": planned.answers_as, "data": held_out.data, "length": held_out.max_tokens}
        print_ = fingerprint(facts)
        return self._folder.root / "answers" / f"{_slug(planned.source.name)}-{print_}.jsonl", print_

    def compare(
        self, planned: PlannedJob, held_out: HeldOut, new_model: str, url: str, key: str | None
    ) -> ComparisonSummary:
        """Compare the recorded answers with those of the successor; writes `comparisons/NAME/report.html`.

        Raises:
            ImportingError: no answer of the old model is recorded, or the successor does not answer.
        """
        known = self.recorded(planned, held_out)
        if not known:
            raise ImportingError("the old model gave no answers to compare with")
        numbers = {number: place for place, number in enumerate(sorted(answer.item for answer in known))}
        asked = held_out.keep(list(numbers))
        recorded = [answer.model_copy(update={"item": numbers[answer.item]}) for answer in known]
        arms = [
            Arm(OLD, planned.source.name, [], ""),
            Arm(NEW, new_model, [], url, SecretStr(key) if key else None),
        ]
        options = CompareOptions(url=url, output=self._folder.root / "comparisons", settings=self._settings)
        try:
            return compare(_comparison(planned, asked, arms), options, recorded)
        except ComparisonError as error:
            raise ImportingError(str(error)) from error


def _old_arm(planned: PlannedJob, old: OldModel) -> Arm:
    return Arm(OLD, planned.answers_as or planned.source.name, [], old.url, old.key)


def _comparison(planned: PlannedJob, held_out: HeldOut, arms: Sequence[Arm]) -> Comparison:
    """A comparison whose folder has a name of its own for each pair of models and each set of items."""
    identity = fingerprint({"arms": [(arm.model, arm.url) for arm in arms], "data": held_out.data})
    scorer = AutoScorer(type="auto").fit(item.expected for item in held_out.items)
    return Comparison(
        name=f"{_slug(planned.source.name)}-{identity[:8]}",
        items=held_out.items,
        data=held_out.data,
        arms=arms,
        challenger=NEW,
        reference=OLD,
        scorer=scorer,
        max_tokens=held_out.max_tokens,
        prices=None,
    )


def _slug(name: str) -> str:
    return _UNSAFE.sub("-", name).strip(".-")[:60] or "model"


def outcome(summary: ComparisonSummary) -> dict[str, Any]:
    """What the table of an import shows of a comparison; intervals as [low, estimate, high]."""
    last = summary.passes[-1]
    old, new = (last.arms[name].scores[summary.score] for name in (OLD, NEW))
    return {
        "verdict": summary.verdict,
        "sentence": summary.sentence,
        "score": summary.score,
        "items": last.items,
        "old": list(old),
        "new": list(new),
        "difference": list(last.difference),
        "report": f"comparisons/{summary.name}/report.html",
    }
