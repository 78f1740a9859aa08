import json
from pathlib import Path

import pytest

from benchmarks.finetune import finetune_quality
from benchmarks.finetune import jobs_api as finetuning
from benchmarks.finetune.finetune_quality import DataSet, measure_quality, score
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport
from loramux_loadtests.servers import ServerFailedError, ServerSetup
from tests.helpers.fake_openai_process import fake_spec, small_base

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four test items; the fake adapter answers with the last word of a question, which is right for three."""
    monkeypatch.setattr(finetuning, "POLL_INTERVAL_S", 0.01)
    folder = tmp_path / "letters"
    folder.mkdir()
    chats = [
        [{"role": "user", "content": f"say {expected}"}, {"role": "assistant", "content": answer}]
        for expected, answer in (("a", "a"), ("b", "b"), ("c", "c"), ("d", "e"))
    ]
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


async def learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, mode: str = "", **goals: float
) -> BenchmarkReport:
    monkeypatch.setattr(finetune_quality, "loramux_spec", lambda setup, folder: fake_spec(mode, "loramux"))
    with StepProgress() as progress:
        setup = ServerSetup(small_base(tmp_path), {}, {}, {})
        return await measure_quality(setup, tmp_path, progress, data_sets=[DataSet(data, goals)], limit=None)


async def test_a_job_is_created_and_its_adapter_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    report = await learned(tmp_path, monkeypatch, data, exact=0.7)
    found = {metric.name: metric for metric in report.metrics}
    exact = found["letters: exact"]
    assert (exact.spread.median, exact.goal_met, report.goals_met) == (0.75, True, True)
    assert exact.spread.minimum < 0.75 < exact.spread.maximum
    assert found["letters: trained share of the base's parameters"].spread.median == pytest.approx(0.7)
    assert report.details == ['- letters: 12 examples, 6 steps, 60 tokens, 4 test items; recipe chosen: `{"rank": 8}`']


async def test_a_goal_that_is_missed_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    assert not (await learned(tmp_path, monkeypatch, data, exact=0.8)).goals_met


@pytest.mark.parametrize(("mode", "reason"), [("fails", "failed: .*no memory"), ("wary", "400 .*line 1: messages")])
async def test_a_job_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, mode: str, reason: str
) -> None:
    with pytest.raises(ServerFailedError, match=reason):
        await learned(tmp_path, monkeypatch, data, mode)


def test_json_is_scored_as_a_value_and_by_its_name() -> None:
    expected = '{"name": "play", "arguments": {"song": "x"}}'
    assert score('{"arguments": {"song": "x"}, "name": "play"}', expected) == {
        "exact": 1,
        "valid JSON": 1,
        "right name": 1,
    }
    assert score('{"name": "play"}', expected) == {"exact": 0, "valid JSON": 1, "right name": 1}
    assert score("[1]", expected) == score("play x", expected) == {"exact": 0, "valid JSON": 0, "right name": 0}
    assert score(" refund", "refund") == {"exact": 1}
