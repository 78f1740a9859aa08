from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux_adapters.evaluation.scorers.function import FunctionScorer
from loramux_loadtests.compare.answer_log import AnswerLog, ScoredAnswer
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.scoring import score_answers
from tests.helpers.comparisons import PROMPTED, TUNED, comparison, measured_answer

ANSWERS = [measured_answer(arm, item) for arm in (PROMPTED, TUNED) for item in range(12)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[AnswerLog]:
    with AnswerLog(tmp_path / "rows.jsonl", "a") as journal:
        yield journal


def with_function(folder: Path, body: str) -> Comparison:
    (folder / "mine.py").write_text(f"def mine(answer, expected):\n    {body}\n")
    return comparison()._replace(scorer=FunctionScorer(type="function", function=f"{folder / 'mine.py'}:mine"))


async def scored(found: Comparison, journal: AnswerLog) -> list[ScoredAnswer]:
    calls: list[int] = []
    rows = await score_answers(found, ANSWERS, journal, 4, lambda: calls.append(1))
    assert len(calls) == 24
    assert [row.key for row in rows] == [one.key for one in ANSWERS]
    return rows


async def test_every_answer_is_scored_against_its_own_item(journal: AnswerLog) -> None:
    rows = await scored(comparison(), journal)
    assert [row.scores["accuracy"] for row in rows[:4]] == [1, 0, 1, 0]  # all say stop


async def test_an_answer_is_scored_once(journal: AnswerLog, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    counting = with_function(
        tmp_path, f"from pathlib import Path; log = Path({str(log)!r}); log.write_text(log.read_text() + 'x'); return 1"
    )
    first = await scored(counting, journal)
    assert (await scored(counting, journal), log.read_text()) == (first, "x" * 24)


async def test_a_scorer_that_raises_costs_the_score_but_not_the_answer_and_is_tried_again(
    journal: AnswerLog, tmp_path: Path
) -> None:
    rows = await scored(with_function(tmp_path, "return {'right': 1 / (expected == 'go')}"), journal)
    assert [row.scores for row in rows if row.item % 2] == [{"right": 1.0}] * 12
    assert {row.error for row in rows if not row.item % 2} == {"ZeroDivisionError: division by zero"}
    assert all(row.text for row in rows)
    assert len(journal.scores) == 12


async def test_scores_of_other_names_than_the_first_do_not_count(journal: AnswerLog, tmp_path: Path) -> None:
    rows = await scored(with_function(tmp_path, "return {expected: 1}"), journal)
    assert [row.scores for row in rows[:2]] == [{"stop": 1}, {}]
    assert rows[1].error == "the scorer returned other scores than stop for this answer"
