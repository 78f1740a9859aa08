import json
from pathlib import Path

import pytest

from benchmarks.finetune import finetune_quality as lessons
from benchmarks.finetune import jobs_api as finetuning
from benchmarks.finetune.finetune_quality import Lesson, learn, score
from benchmarks.progress import Steps
from loramux_loadtests.report import Report
from loramux_loadtests.servers import ServerFailedError, Setup
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four test items; the fake adapter says the last word of a question, which is right for three."""
    monkeypatch.setattr(finetuning, "POLL_S", 0.01)
    folder = tmp_path / "letters"
    folder.mkdir()
    chats = [
        [{"role": "user", "content": f"say {wanted}"}, {"role": "assistant", "content": said}]
        for wanted, said in (("a", "a"), ("b", "b"), ("c", "c"), ("d", "e"))
    ]
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


async def learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, habit: str = "", **goals: float
) -> Report:
    monkeypatch.setattr(lessons, "loramux", lambda setup, folder: fake_spec(habit, "loramux"))
    with Steps() as steps:
        setup = Setup(small_base(tmp_path), {}, {}, {})
        return await learn(setup, tmp_path, steps, lessons=[Lesson(data, goals)], limit=None)


async def test_a_job_is_made_and_what_it_made_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    report = await learned(tmp_path, monkeypatch, data, exact=0.7)
    found = {finding.what: finding for finding in report.findings}
    exact = found["letters: exact"]
    assert (exact.spread.median, exact.met, report.met) == (0.75, True, True)
    assert exact.spread.minimum < 0.75 < exact.spread.maximum
    assert found["letters: trained of the base's parameters"].spread.median == pytest.approx(0.7)
    assert report.details == ['- letters: 12 examples, 6 steps, 60 tokens, 4 test items; recipe chosen: `{"rank": 8}`']


async def test_a_goal_that_is_missed_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    assert not (await learned(tmp_path, monkeypatch, data, exact=0.8)).met


@pytest.mark.parametrize(("habit", "reason"), [("fails", "failed: .*no memory"), ("wary", "400 .*line 1: messages")])
async def test_a_job_that_can_not_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, habit: str, reason: str
) -> None:
    with pytest.raises(ServerFailedError, match=reason):
        await learned(tmp_path, monkeypatch, data, habit)


def test_json_is_scored_as_a_value_and_by_its_name() -> None:
    wanted = '{"name": "play", "arguments": {"song": "x"}}'
    assert score('{"arguments": {"song": "x"}, "name": "play"}', wanted) == {
        "exact": 1,
        "valid JSON": 1,
        "right name": 1,
    }
    assert score('{"name": "play"}', wanted) == {"exact": 0, "valid JSON": 1, "right name": 1}
    assert score("[1]", wanted) == score("play x", wanted) == {"exact": 0, "valid JSON": 0, "right name": 0}
    assert score(" refund", "refund") == {"exact": 1}
