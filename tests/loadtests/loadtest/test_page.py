import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from loramux_loadtests.loadtest import plots
from loramux_loadtests.loadtest.page import render_page
from loramux_loadtests.loadtest.report import RunReport, report_document, report_markdown, report_run, table_rows
from loramux_loadtests.loadtest.session import LoadRun
from loramux_loadtests.loadtest.sweep import Bracket, SweepResult
from tests.helpers.load_rows import failed, row, scenario

pytestmark = pytest.mark.slow

HOSTILE = '_<script>alert(1)</script>"$\\frac{$|`\n&amp;é\u202e'


def found(target: str = "loramux", route: str = "base", **changes: object) -> RunReport:
    rows = [row(number=n, route=route, scheduled=n / 9, sent=n / 9, first=1 + n / 9, last=2 + n / 9) for n in range(90)]
    return report_run(LoadRun(target, scenario(**changes), 0, [*rows, failed(number=90, route=route)]))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.linked += [
            str(value) for name, value in attrs if name in ("src", "href", "xlink:href") or name.startswith("on")
        ]


def tags(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    return parser


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    text = render_page([found()])
    seen = tags(text)
    assert not seen.seen & {"script", "link", "iframe", "img", "object"}
    assert all(target.startswith("#") for target in seen.linked)
    assert "default-src 'none'" in text
    assert not re.search(r"(@import|url\((?!#))", text)


def test_text_of_others_is_escaped() -> None:
    hostile = found(HOSTILE, HOSTILE, title=HOSTILE[:60], about=HOSTILE, mix={"names": [HOSTILE]})
    text = render_page([hostile, found("other")], [SweepResult(HOSTILE, "ttft_p95<1", Bracket(1.0, 2.0))])
    assert (
        tags(text).seen == tags(render_page([found(), found("other")], [SweepResult("a", "b", Bracket(1.0, 2.0))])).seen
    )
    assert "&lt;script&gt;" in text
    lines = report_markdown([hostile]).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert not any(re.search(r"(?<!\\)<", line) for line in lines)


def test_every_plot_is_whole_xml_with_a_label_of_each_server() -> None:
    pair = [found("loramux"), found("stock")]
    for svg in (
        plots.over_time(pair, "ttft", "TTFT"),
        plots.distribution(pair, "tpot", "TPOT"),
        plots.in_flight(pair),
        plots.by_route(pair, "ttft", "TTFT"),
    ):
        text = "".join(ElementTree.fromstring(svg).itertext())  # noqa: S314 - it is our own
        assert "loramux" in text
        assert "stock" in text


def test_a_load_of_nothing_but_errors_has_a_page() -> None:
    text = render_page([report_run(LoadRun("dead", scenario(), 0, [failed(number=n) for n in range(3)]))])
    assert "3 http 500" in text


def test_the_definitions_are_printed_in_every_report() -> None:
    one = found()
    for text in (render_page([one]), report_markdown([one]), str(report_document([one]))):
        assert "(end - first chunk) / (output tokens - 1)" in text


def test_an_open_end_of_an_interval_is_null_for_programs_and_dots_for_people() -> None:
    few = report_run(LoadRun("few", scenario(), 0, [row(), row(number=1)]))
    assert report_document([few])["runs"][0]["groups"]["all"]["times"]["ttft"]["p50"] == [None, 0.5, None]
    assert "500 \\[…, …\\]" in report_markdown([few])


def test_requests_during_a_job_are_in_the_document_under_their_old_name_too() -> None:
    rows = [row(number=n, scheduled=float(n), sent=float(n), last=n + 3.0) for n in range(9)]
    run = LoadRun("s", scenario(), 0, rows, job_ran=(3.0, 8.0))
    groups = report_document([report_run(run)])["runs"][0]["groups"]
    assert groups["during the job"] == groups["beside the job"]
    assert "beside" not in report_markdown([report_run(run)])


def test_an_empty_column_is_left_out() -> None:
    columns, *rows = table_rows([found()])
    assert "goodput /s" not in columns
    assert {len(columns)} == {len(row) for row in rows}
    assert "goodput /s" in table_rows([found(), found(goal="ttft_p95<1")])[0]


@pytest.mark.parametrize("count", [1, 1000])
def test_many_routes_are_shown_together(count: int) -> None:
    rows = [row(number=n, route=f"a{n}", cold=True) for n in range(count)]
    shown = report_run(LoadRun("s", scenario(), 0, [*rows, row(number=count)])).shown
    assert len(shown) <= 4
