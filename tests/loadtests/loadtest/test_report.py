"""Reports of runs: what they warn of, and what their rates count; test_page.py tests how they look."""

from loramux_loadtests.loadtest.report import brief_cells, report_run
from loramux_loadtests.loadtest.session import LoadRun
from tests.helpers.load_rows import row, scenario


def test_a_report_warns_of_a_server_that_did_not_keep_up_and_of_few_requests() -> None:
    rows = [row(number=n, scheduled=n / 8, sent=n / 8, first=n / 8, last=1 + n / 8 * 1.7) for n in range(480)]
    overloaded = report_run(LoadRun("s", scenario(goal="ttft_p95<9"), 0, rows))
    assert any(warning.startswith("the server did not keep up: 4.") for warning in overloaded.warnings)
    few = report_run(LoadRun("s", scenario(goal="ttft_p95<9"), 0, rows[:20]))
    assert few.warnings == ["20 requests are too few to judge ttft_p95<9: 72 are needed"]
    assert brief_cells("all", few.total)[-1].endswith("…")
    steady = [row(number=n, scheduled=n / 8, sent=n / 8, first=n / 8, last=1 + n / 8) for n in range(480)]
    assert report_run(LoadRun("s", scenario(goal="ttft_p95<9"), 0, steady)).warnings == []


def test_the_rate_during_a_job_counts_the_answers_of_that_time() -> None:
    """In an overload most requests of a part of the load are answered after it."""
    rows = [row(number=n, scheduled=float(n), sent=float(n), first=float(n), last=n * 2.0 + 1) for n in range(10)]
    groups = report_run(LoadRun("s", scenario(), 0, rows, job_ran=(4.0, 10.0))).groups
    assert (groups["before the job"].requests, groups["before the job"].rate) == (4, 2 / 4)  # at 1 and 3
    assert (groups["during the job"].requests, groups["during the job"].rate) == (6, 3 / 6)  # at 5, 7 and 9
