from typing import Any

import pytest

from loramux_server.cli import evaluation_tables
from loramux_server.cli.console import stdout

SCORES = {"exact match": {"low": 0.1, "mean": 0.2, "high": 0.3}, "chrF": {"low": 0.4, "mean": 0.5, "high": 0.6}}
SAMPLE = {
    "question": 3,
    "messages": [{"role": "system", "content": "Be [bold]brief[/]."}, {"role": "user", "content": "hi"}],
    "left_out": 90,
    "answer": "[ho]",
    "expected": "ho",
}
ARM: dict[str, Any] = {"scores": SCORES, "input_tokens": 1234.5, "output_tokens": 2.0, "seconds": 0.25}


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdout, "_width", 200)


def printed(capsys: pytest.CaptureFixture[str], **found: Any) -> str:
    evaluation_tables.evaluation({"sentence": "Keep [prompting].", "measure": "chrF"} | found)
    return " ".join(capsys.readouterr().out.split())


def test_verdict_warnings_arms_and_tried_prompts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(
        capsys,
        warnings=[{"code": "leak", "message": "3 of 40 [leaked]", "items": []}],
        arms={"adapter": ARM},
        candidates=[
            {"name": "base", "score": 0.0, "items": 20, "is_chosen": False},
            {"name": "base with instructions", "score": 0.25, "items": 20, "is_chosen": True},
        ],
    )
    assert text.startswith("Keep [prompting]. Warning: 3 of 40 [leaked] chrF exact match input tokens")
    assert "adapter 0.50 [0.40, 0.60] 0.20 [0.10, 0.30] 1,234 2 0.25" in text
    assert "Tried on 20 training examples, which are not in the prompts: base 0.00, base with instructions 0.25" in text
    assert "instructions 0.25 (chosen)." in text


def test_the_messages_that_were_sent_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, arms={"adapter": ARM | {"sample": SAMPLE}})
    assert "Sent for adapter, question 3: system: Be [bold]brief[/]. user: hi (90 messages" in text
    assert text.endswith("It answered: [ho] Expected: ho")


def test_a_comparison_of_an_earlier_release_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == "Keep [prompting]."
    assert "adapter 0.50" in printed(capsys, arms={"adapter": ARM})


def test_prompts_that_could_not_be_tried_are_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Tried" not in printed(capsys, candidates=[{"name": "base", "score": None, "items": 0, "is_chosen": True}])
