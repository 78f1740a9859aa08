"""Comparisons whose truth is known: page, JSON, Markdown and sentence state the same verdict, and it is right."""

import html
import json
import re
from pathlib import Path

import pytest

from loramux_loadtests.compare import plots
from loramux_loadtests.compare.markdown import summary_table
from loramux_loadtests.compare.page import write_report
from loramux_loadtests.compare.summary import summarize
from tests.helpers.made_up_comparisons import made_up_comparisons

pytestmark = pytest.mark.slow

EXPERIMENTS = made_up_comparisons()

SENTENCES = {
    "better": r"^“adapter” is better than “",
    "as good": r"^“adapter” is as good as “",
    "worse": r"^Keep “prompted base”: “adapter” is worse by ",
    "neither works": r"^Neither “adapter” nor “.* works: .*Is the scorer right",
    "scorer in doubt": r"^The scorer is in doubt: ",
    "not enough items": r"do not decide|too few",
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_report_of_a_made_up_comparison_states_the_right_verdict(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "confusion", lambda *_: None)  # takes most of the time
    comparison, answers, verdict, warnings = EXPERIMENTS[name]()
    summary = summarize(comparison, answers, {})
    write_report(tmp_path, comparison, summary, answers, {})
    document = json.loads((tmp_path / "report.json").read_text())
    page = html.unescape((tmp_path / "report.html").read_text())
    assert summary.verdict == verdict, summary.sentence
    assert re.search(SENTENCES[verdict], summary.sentence), summary.sentence
    assert (document["verdict"], document["sentence"]) == (verdict, summary.sentence)
    assert f"<title>made-up: {verdict}</title>" in page
    assert f"Verdict: <b>{verdict}</b>: {summary.reason}" in page
    assert summary.sentence in page
    assert "".join(summary.sentence.split()) in re.sub(r"[\\\s]", "", summary_table(summary))
    assert {warning["code"] for warning in document["warnings"]} >= warnings
    assert all(warning["message"][1:] in page for warning in document["warnings"])


def test_a_made_up_comparison_without_a_fault_has_no_warning() -> None:
    for name in ("adapter better", "adapter clearly worse", "tiny"):
        found = EXPERIMENTS[name]()
        assert summarize(found.comparison, found.answers, {}).warnings == [], name


def test_the_items_with_wrong_labels_are_the_ones_that_are_named() -> None:
    found = EXPERIMENTS["wrong labels"]()
    summary = summarize(found.comparison, found.answers, {})
    [warning] = summary.warnings
    assert warning.items == tuple(item for item in range(12) if item not in summary.left_out)
