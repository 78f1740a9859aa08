"""`loramux adapter merge` without the merging itself, which tests/adapters/merging tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from loramux_adapters.merging.request import Difference, MergeReport, MergeRequest
from loramux_server.cli import merge
from loramux_server.cli.main import main as app
from tests.helpers.adapter_files import write_adapter
from tests.helpers.tiny_base import make_base

REPORT = MergeReport(dtype="bfloat16", parameters=1234567, weights_bytes=2_500_000_000, answers=8, tokens=99, tie=0.25)
Merged = Callable[[MergeReport], list[MergeRequest]]


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> Merged:
    """Lets the merger give this report; returns the list of requests that it gets."""

    def give(report: MergeReport) -> list[MergeRequest]:
        requests: list[MergeRequest] = []

        def merge_adapter(request: MergeRequest, _: Path) -> MergeReport:
            requests.append(request)
            return report

        monkeypatch.setattr(merge, "merge_adapter", merge_adapter)
        return requests

    return give


def run(folder: Path, *arguments: str) -> Result:
    base, adapter = folder / "base", folder / "adapter"
    if not base.exists():
        make_base(base)
        write_adapter(adapter)
    command = ["adapter", "merge", str(adapter), str(folder / "merged"), "--local", "--base", str(base), *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def difference(gap: float) -> Difference:
    return Difference(conversation=1, token=3, gap=gap, adapter="yes", merged="no")


def test_the_result_says_how_it_was_checked(merged: Merged, tmp_path: Path) -> None:
    requests = merged(REPORT)
    run(tmp_path)
    assert (requests[0].base, requests[0].dtype) == (tmp_path / "base", "auto")
    assert len(requests[0].conversations) == len(merge.QUESTIONS)
    shown = run(tmp_path).stdout
    assert "1,234,567 parameters in bfloat16, 2.50 GB" in shown
    assert "8 of 8 greedy answers (99 tokens) equal those of the adapter on the base\n" in shown
    assert json.loads(run(tmp_path, "--json").stdout)["parameters"] == 1234567


def test_a_tie_is_shown_and_a_difference_is_a_failure(merged: Merged, tmp_path: Path) -> None:
    merged(REPORT.model_copy(update={"differences": [difference(0.1)]}))
    tie = run(tmp_path)
    assert tie.exit_code == 0
    assert "7 of 8 greedy answers" in tie.stdout
    assert "tie of at most 0.25 nats" in tie.stdout
    merged(REPORT.model_copy(update={"differences": [difference(0.5)]}))
    other = run(tmp_path)
    assert other.exit_code == 1
    assert "1 of 8 answers of the merged model are not the adapter's: nothing was written" in other.stderr


def test_prompts_come_from_a_chat_file(merged: Merged, tmp_path: Path) -> None:
    requests, file = merged(REPORT), tmp_path / "held-out.jsonl"
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    file.write_text(f"{json.dumps(chat)}\n" * 60)
    assert run(tmp_path, "--prompts", str(file)).exit_code == 0
    assert len(requests[0].conversations) == merge.MAX_PROMPTS
    assert [message["content"] for message in requests[0].conversations[0]] == ["Hi"]
    file.write_text("{}\n")
    assert "messages" in run(tmp_path, "--prompts", str(file)).stderr


def test_an_adapter_of_another_base_is_pointed_out(merged: Merged, tmp_path: Path) -> None:
    merged(REPORT)
    assert "is it the same?" in run(tmp_path).stderr


def test_a_folder_that_is_no_adapter_and_an_unknown_base_are_refused(merged: Merged, tmp_path: Path) -> None:
    merged(REPORT)
    run(tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in run(tmp_path).stderr
    assert "unknown base" in run(tmp_path, "--base", "nowhere").stderr
