import base64
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.scorers.texts import ExactScorer
from loramux_loadtests.compare.answer_log import Batch
from loramux_loadtests.compare.costs import ComparisonPrices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.markdown import (
    BEGIN,
    END,
    printable,
    summary_table,
    terminal_samples,
    terminal_table,
    write_tables,
)
from loramux_loadtests.compare.page import disagreements, render_html, write_report
from loramux_loadtests.compare.summary import summarize
from tests.helpers.comparisons import PROMPTED, TUNED, chat, comparison, scored_answer, scored_answers

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }} $x_$y_$ | [/b]\n`"
PRICES = ComparisonPrices(gpu_hour=1.0, training=0.01)
BATCHES = {("warm", arm): [Batch(6.0, 1)] * 12 for arm in (PROMPTED, TUNED)}


def test_text_of_models_and_users_is_escaped_on_the_page() -> None:
    evil = comparison(prices=PRICES)
    evil = evil._replace(
        name=EVIL,
        items=[Item(chat(f"user: {EVIL}"), EVIL)] * 12,
        arms=[arm._replace(name=f"{EVIL} {arm.name}", prompt=chat(f"system: {EVIL}"), model=EVIL) for arm in evil.arms],
        challenger=f"{EVIL} {TUNED}",
        reference=f"{EVIL} {PROMPTED}",
        scorer=ExactScorer(type="exact"),
    )
    scored = {"text": EVIL, "scores": {EVIL: 1.0}}
    answers = [
        answer.model_copy(update={"arm": f"{EVIL} {answer.arm}", **scored})
        for answer in scored_answers([1] * 12, [0] * 12)
    ]
    summary = summarize(evil, answers, {})
    page = re.sub(r"data:[^\"]*", "", render_html(evil, summary, answers, {"seed": EVIL}))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("{{ 7 * 7 }}") == page.count("&lt;script&gt;") >= 4 * 3
    cells = [
        len(re.findall(r"(?<!\\)\|", line))
        for line in summary_table(summary, brief=True).splitlines()
        if line.startswith("|")
    ]
    assert (len(cells), len(set(cells))) == (4, 1)
    printed = io.StringIO()
    Console(file=printed, width=2000).print(terminal_table(summary, summary.passes[-1]))
    assert "[/b]" in printed.getvalue()


def test_no_answer_sends_control_characters_to_a_terminal() -> None:
    assert printable("a\x1b[2J\n\u202eb\x00") == "a\ufffd[2J \ufffdb\ufffd"
    answers = [one.model_copy(update={"text": "\x1b]0;owned\x07"}) for one in scored_answers([0] * 12, [0] * 12)]
    printed = io.StringIO()
    Console(file=printed, width=200).print(terminal_samples(summarize(comparison(), answers, {})))
    assert "\x1b" not in printed.getvalue()
    assert "owned" in printed.getvalue()


def test_the_page_is_self_contained() -> None:
    found = comparison(prices=PRICES)
    answers = scored_answers([1] * 12, [0] * 12)
    page = render_html(found, summarize(found, answers, BATCHES), answers, {})
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "default-src 'none'" in page
    assert page.count("<img") == 1 + 1 + 2  # quality, break-even, a confusion matrix each
    assert "When it pays for itself, by gpu hour" in page


def test_no_label_of_a_plot_is_a_formula() -> None:
    found = comparison(prices=PRICES)
    answers = scored_answers([1] * 12, [0] * 12)
    page = render_html(found, summarize(found, answers, BATCHES), answers, {})
    plots = [base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    assert any("<!-- 10,000 -->" in plot for plot in plots)
    assert not any("mathdefault" in plot for plot in plots)


def test_the_worst_come_first_and_equals_do_not_come() -> None:
    answers = scored_answers([0, 1, 1, 1], [1, 0, 1, 0.5])
    shown = disagreements(comparison(), summarize(comparison(), answers, {}), answers)
    assert [found.difference for found in shown] == [-1, 1, 0.5]
    assert {arm: answer.text for arm, answer in shown[0].sample.arms.items()} == {TUNED: "stop", PROMPTED: "stop"}


def test_unscored_answers_are_not_disagreements() -> None:
    answers = [*scored_answers([1, 1], [1, 1])[1:], scored_answer(TUNED, 0, scores={}, error="x")]
    assert disagreements(comparison(), summarize(comparison(), answers, {}), answers) == []


def test_the_json_is_the_summary_with_the_machine(tmp_path: Path) -> None:
    found, answers = comparison(), scored_answers([1, 0], [0, 0])
    summary = summarize(found, answers, {})
    write_report(tmp_path, found, summary, answers, {"seed": 3})
    document = json.loads((tmp_path / "report.json").read_text())
    assert (document["verdict"], document["facts"]) == (summary.verdict, {"seed": 3})
    assert document["machine"]["cores"]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_table_holds_every_arm_and_the_verdict(tmp_path: Path) -> None:
    summary = summarize(comparison(prices=PRICES), scored_answers([1] * 12, [0] * 12), BATCHES)
    text = summary_table(summary)
    assert "| tuned | 1.000 \\[0.774, 1.000\\] | 1.000 \\[0.774, 1.000\\] | 10 | 0 | 2.000 |" in text
    assert "$ per 1,000, gpu hour" in text
    assert "**“tuned” is better than “prompted” by 1.00 \\[" in text
    assert "| tuned | 1.000 \\[0.774, 1.000\\] | 10 | 0 | 2.000 |" in summary_table(summary, brief=True)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(readme, [summary, summary])
    write_tables(readme, [summary, summary])
    written = readme.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert (written.count(text), "old" in written) == (2, False)
    few = summary_table(summarize(comparison(), scored_answers([1] * 4, [0] * 4), {}))
    assert "**4 items are too few for a verdict: “tuned” relative to “prompted” +1.00 \\[" in few
    assert "| tuned | 1.000 \\[0.405, 1.000\\] | 1.000 \\[0.405, 1.000\\] | – | – | – |" in few


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}", None])
def test_a_readme_without_marks_is_not_changed(tmp_path: Path, content: str | None) -> None:
    readme = tmp_path / "README.md"
    if content is not None:
        readme.write_text(content)
    with pytest.raises(ComparisonError, match=r"README.md (has no marks|can't be read)"):
        write_tables(readme, [])
    assert content is None or readme.read_text() == content
