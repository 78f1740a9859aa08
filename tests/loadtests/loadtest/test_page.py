import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from loramux_loadtests.loadtest import plots
from loramux_loadtests.loadtest.page import page
from loramux_loadtests.loadtest.report import Findings, document, find, markdown, table
from loramux_loadtests.loadtest.session import Run
from loramux_loadtests.loadtest.sweep import Bracket, Sweep
from tests.helpers.load_rows import failed, row, scenario

HOSTILE = '_<script>alert(1)</script>"$\\frac{$|`\n&amp;é\u202e'


def found(target: str = "loramux", route: str = "base", **changes: object) -> Findings:
    rows = [row(number=n, route=route, scheduled=n / 9, sent=n / 9, first=1 + n / 9, last=2 + n / 9) for n in range(90)]
    return find(Run(target, scenario(**changes), 0, [*rows, failed(number=90, route=route)]))


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
    text = page([found()])
    seen = tags(text)
    assert not seen.seen & {"script", "link", "iframe", "img", "object"}
    assert all(target.startswith("#") for target in seen.linked)
    assert "default-src 'none'" in text
    assert not re.search(r"(@import|url\((?!#))", text)


def test_what_others_wrote_is_shown_and_never_meant() -> None:
    hostile = found(HOSTILE, HOSTILE, title=HOSTILE[:60], about=HOSTILE, mix={"names": [HOSTILE]})
    text = page([hostile, found("other")], [Sweep(HOSTILE, "ttft_p95<1", Bracket(1.0, 2.0))])
    assert tags(text).seen == tags(page([found(), found("other")], [Sweep("a", "b", Bracket(1.0, 2.0))])).seen
    assert "&lt;script&gt;" in text
    lines = markdown([hostile]).splitlines()
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
    text = page([find(Run("dead", scenario(), 0, [failed(number=n) for n in range(3)]))])
    assert "3 http 500" in text


def test_the_definitions_are_printed_in_every_report() -> None:
    one = found()
    for text in (page([one]), markdown([one]), str(document([one]))):
        assert "(end - first piece) / (output tokens - 1)" in text


def test_an_open_end_of_an_interval_is_null_for_programs_and_dots_for_people() -> None:
    few = find(Run("few", scenario(), 0, [row(), row(number=1)]))
    assert document([few])["runs"][0]["groups"]["all"]["times"]["ttft"]["p50"] == [None, 0.5, None]
    assert "500 \\[…, …\\]" in markdown([few])


def test_a_column_without_anything_in_it_is_left_out() -> None:
    columns, *rows = table([found()])
    assert "goodput /s" not in columns
    assert {len(columns)} == {len(row) for row in rows}
    assert "goodput /s" in table([found(), found(goal="ttft_p95<1")])[0]


@pytest.mark.parametrize("count", [1, 1000])
def test_many_routes_are_shown_together(count: int) -> None:
    rows = [row(number=n, route=f"a{n}", cold=True) for n in range(count)]
    shown = find(Run("s", scenario(), 0, [*rows, row(number=count)])).shown
    assert len(shown) <= 4
