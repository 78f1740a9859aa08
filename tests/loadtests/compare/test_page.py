import base64
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from loramux_adapters.evaluation.scorers.texts import ExactScorer
from loramux_loadtests.compare.costs import Prices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.items import Item
from loramux_loadtests.compare.markdown import BEGIN, END, overview, table, write_tables
from loramux_loadtests.compare.page import disagreements, html, write
from loramux_loadtests.compare.rows import Turn
from loramux_loadtests.compare.summary import summarize
from tests.helpers.comparisons import PROMPTED, TUNED, chat, comparison, row, rows

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }} $x_$y_$ | [/b]\n`"
PRICES = Prices(gpu_hour=1.0, training=0.01)
TURNS = {("warm", arm): [Turn(6.0, 2)] * 6 for arm in (PROMPTED, TUNED)}


def test_whatever_was_written_is_text_on_the_page() -> None:
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
    answers = [one.model_copy(update={"arm": f"{EVIL} {one.arm}", **scored}) for one in rows([1] * 12, [0] * 12)]
    summary = summarize(evil, answers, {})
    page = re.sub(r"data:[^\"]*", "", html(evil, summary, answers, {"seed": EVIL}))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("{{ 7 * 7 }}") == page.count("&lt;script&gt;") >= 4 * 3
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table(summary).splitlines() if line.startswith("|")]
    assert (len(cells), len(set(cells))) == (4, 1)
    told = io.StringIO()
    Console(file=told, width=2000).print(overview(summary, summary.passes[-1]))
    assert "[/b]" in told.getvalue()


def test_the_page_needs_nothing_else() -> None:
    found = comparison(prices=PRICES)
    answers = rows([1] * 12, [0] * 12)
    page = html(found, summarize(found, answers, TURNS), answers, {})
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "default-src 'none'" in page
    assert page.count("<img") == 1 + 1 + 2  # quality, break-even, a confusion matrix each
    assert "When it pays, by gpu hour" in page


def test_no_label_of_a_picture_is_a_formula() -> None:
    found = comparison(prices=PRICES)
    answers = rows([1] * 12, [0] * 12)
    page = html(found, summarize(found, answers, TURNS), answers, {})
    pictures = [base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    assert any("<!-- 10,000 -->" in picture for picture in pictures)
    assert not any("mathdefault" in picture for picture in pictures)


def test_the_worst_come_first_and_equals_do_not_come() -> None:
    answers = rows([0, 1, 1, 1], [1, 0, 1, 0.5])
    shown = disagreements(comparison(), answers)
    assert [one.difference for one in shown] == [-1, 1, 0.5]
    assert shown[0].answers == {TUNED: "stop", PROMPTED: "stop"}


def test_unscored_answers_are_no_disagreement() -> None:
    assert disagreements(comparison(), [row(TUNED, 0, scores={}, error="x"), row(PROMPTED, 0)]) == []


def test_the_json_is_the_summary_with_the_machine(tmp_path: Path) -> None:
    found, answers = comparison(), rows([1, 0], [0, 0])
    summary = summarize(found, answers, {})
    write(tmp_path, found, summary, answers, {"seed": 3})
    document = json.loads((tmp_path / "report.json").read_text())
    assert (document["verdict"], document["facts"]) == (summary.verdict, {"seed": 3})
    assert document["machine"]["cores"]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_table_holds_every_arm_and_the_verdict(tmp_path: Path) -> None:
    summary = summarize(comparison(prices=PRICES), rows([1] * 4, [0] * 4), TURNS)
    text = table(summary)
    assert "| tuned | 1.000 \\[0.510, 1.000\\] | 1.000 \\[0.510, 1.000\\] | 10 | 0 | 2.000 |" in text
    assert "$ a 1,000, gpu hour" in text
    assert "**4 items are too few for a verdict: “tuned” over “prompted” +1.00 \\[" in text
    assert "| tuned | 1.000 \\[0.510, 1.000\\] | 10 | 0 | 2.000 |" in table(summary, brief=True)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(readme, [summary, summary])
    write_tables(readme, [summary, summary])
    written = readme.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert (written.count(text), "old" in written) == (2, False)


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}", None])
def test_a_readme_without_a_place_is_left_alone(tmp_path: Path, content: str | None) -> None:
    readme = tmp_path / "README.md"
    if content is not None:
        readme.write_text(content)
    with pytest.raises(ComparisonError, match=r"README.md (has no place|can't be read)"):
        write_tables(readme, [])
    assert content is None or readme.read_text() == content
