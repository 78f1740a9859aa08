import json
from pathlib import Path

import pytest

from benchmarks.report import BenchmarkReport, Metric, report_markdown, write_report
from loramux_adapters.evaluation.statistics import Spread

FAST = Metric("base: throughput", Spread(0.98, 0.9, 1.1), at_least=0.97)
SLOW = Metric("base: first token", Spread(1.06, 1.0, 1.2), at_most=1.05)
PLAIN = Metric("base: tokens", Spread(70.0, 60.0, 80.0), unit="tokens/s")


def report(*metrics: Metric) -> BenchmarkReport:
    return BenchmarkReport("Overhead", "How it was done.", metrics, {"rounds": 3}, [{"route": "base"}])


@pytest.mark.parametrize(("metric", "met"), [(FAST, True), (SLOW, False), (PLAIN, True)])
def test_a_goal_is_held_against_the_median(metric: Metric, met: bool) -> None:
    assert metric.goal_met == met


def test_a_report_is_met_when_every_goal_is() -> None:
    assert report(FAST, PLAIN).goals_met
    assert not report(FAST, SLOW).goals_met


def test_the_page_names_every_finding_its_goal_the_arguments_and_the_machine() -> None:
    page = report_markdown(report(FAST, SLOW, PLAIN), {"cpu": "Abacus 9"})
    assert "| base: throughput | ratio | 0.980 | 0.900 | 1.100 | at least 0.97 | yes |" in page
    assert "| base: first token | ratio | 1.060 | 1.000 | 1.200 | at most 1.05 | **no** |" in page
    assert "| base: tokens | tokens/s | 70.000 | 60.000 | 80.000 |  |  |" in page
    assert "- rounds: 3" in page
    assert "- cpu: Abacus 9" in page


def test_both_files_are_written_and_the_json_holds_the_rounds(tmp_path: Path) -> None:
    write_report(report(FAST), tmp_path / "results", "overhead")
    document = json.loads((tmp_path / "results" / "overhead.json").read_text())
    assert document["findings"][0]["median"] == 0.98
    assert document["rounds"] == [{"route": "base"}]
    assert document["machine"]["cores"] >= 1
    assert (tmp_path / "results" / "overhead.md").read_text().startswith("# Overhead\n")
