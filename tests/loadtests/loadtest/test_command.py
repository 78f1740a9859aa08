import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from loramux_loadtests.loadtest import command, plots, sweep_session
from loramux_loadtests.loadtest.errors import NoRequestError
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import IsEnough, LoadRun, TargetServer
from loramux_loadtests.loadtest.sweep_session import SweepOptions
from loramux_server.cli import loadtest
from tests.helpers.load_rows import row, scenario
from tests.helpers.scripted_server import FakeServer, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]

QUICK = SweepOptions(precision=0.5, max_seconds=4, confirm_seconds=0)
LONG_ENOUGH = SweepOptions(precision=0.5, max_seconds=8, confirm_seconds=0)

PLAIN = scenario(mix={"names": ["base", "tone"]}, goal="ttft_p95<5,errors<0.5").model_dump(
    mode="json", exclude_unset=True
)


@contextmanager
def in_a_thread(fake: FakeServer) -> Iterator[str]:
    """Serve in another thread while this one runs a command."""
    loop, ready = asyncio.new_event_loop(), asyncio.Event()
    over = asyncio.Event()

    async def serve() -> None:
        async with serving(fake):
            ready.set()
            await over.wait()

    thread = Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    asyncio.run_coroutine_threadsafe(ready.wait(), loop).result(10)
    try:
        yield fake.url
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip drawing, which takes longer than these loads; test_page.py tests it."""
    monkeypatch.setattr(plots, "render_svg", lambda draw: "<svg ></svg>")


def write_scenario(folder: Path, **changes: Any) -> str:
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(PLAIN | changes))
    return str(path)


def options(folder: Path, *servers: str, **more: Any) -> dict[str, Any]:
    return {"servers": servers, "seed": 0, "output": folder / "out", **more}


def test_a_run_writes_its_rows_a_page_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with in_a_thread(FakeServer()) as url:
        assert command.run(write_scenario(tmp_path), {}, None, **options(tmp_path, url)) == command.OK
    out = tmp_path / "out"
    assert sorted(path.suffix for path in out.iterdir()) == [".html", ".json", ".jsonl", ".md"]
    [run] = json.loads((out / "load-trial.json").read_text())["runs"]
    assert (run["vllm"]["completed"], run["vllm"]["total_output_tokens"]) == (20, 60)
    assert set(run["routes"]) == {"base", "tone"}
    assert run["missed"] == []
    assert "met" in (out / "load-trial.md").read_text()
    assert "first chunk with text" in (out / "load-trial.html").read_text()
    assert "tone" in capsys.readouterr().out


@pytest.mark.usefixtures("without_plots")
def test_a_users_report_goes_to_loadtest_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with in_a_thread(FakeServer()) as url:
        done = CliRunner().invoke(loadtest.commands, ["run", write_scenario(tmp_path), "--url", url])
    assert done.exit_code == command.OK, done.output
    assert (tmp_path / "loadtest-reports" / "load-trial.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loadtest-reports", "trial.yaml"]


@pytest.mark.usefixtures("without_plots")
def test_a_missed_goal_has_its_own_exit_code(tmp_path: Path) -> None:
    with in_a_thread(FakeServer(delay=lambda _: 0.05)) as url:
        changes = {"goal": "ttft_p50<0.01", "requests": 5}
        assert command.run(write_scenario(tmp_path), changes, None, **options(tmp_path, url)) == command.GOAL_MISSED


@pytest.mark.usefixtures("without_plots")
def test_a_server_that_answers_no_request_is_a_failure(tmp_path: Path) -> None:
    with in_a_thread(FakeServer(error_status=lambda body: 500 if body["max_tokens"] == 3 else 0)) as url:
        assert command.run(write_scenario(tmp_path, goal=None), {}, None, **options(tmp_path, url)) == command.FAILED
    assert "20 http 500" in (tmp_path / "out" / "load-trial.md").read_text()


@pytest.mark.usefixtures("without_plots")
def test_two_servers_are_compared_in_one_report_with_the_same_load(tmp_path: Path) -> None:
    with in_a_thread(FakeServer()) as url, in_a_thread(FakeServer(delay=lambda _: 0.05)) as other:
        assert command.run(write_scenario(tmp_path), {}, None, **options(tmp_path, url, other)) == command.OK
    runs = json.loads((tmp_path / "out" / "load-trial.json").read_text())["runs"]
    assert [run["server"] for run in runs] == [url, other]
    assert runs[1]["vllm"]["median_ttft_ms"] > 50 > runs[0]["vllm"]["median_ttft_ms"]
    assert runs[0]["vllm"]["total_input_tokens"] == runs[1]["vllm"]["total_input_tokens"]


class FakeLoads:
    """Replaces loads by rows with a TTFT that grows with the rate, or without rows below a rate of `min_rate`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, min_rate: float = 0.0) -> None:
        self.min_rate = min_rate
        self.seeds: list[int] = []
        monkeypatch.setattr(sweep_session, "run_load", self.run_load)

    async def run_load(
        self, scenario: Scenario, target: TargetServer, seed: int, file: Path, _: ProgressLine, is_enough: IsEnough
    ) -> LoadRun:
        rate = scenario.arrivals.rate or 0.0
        if rate < self.min_rate:
            raise NoRequestError("the scenario sends no request within 0.3 s")
        self.seeds.append(seed)
        run = LoadRun(target.name, scenario, seed)
        while not is_enough(at := len(run.rows) / rate, run.rows):
            ttft = rate / 1000
            run.rows.append(row(number=len(run.rows), scheduled=at, sent=at, first=at + ttft, last=at + ttft + 0.01))
        return run


def sweep_document(folder: Path, goal: str, code: int) -> Any:
    changes = {"goal": goal, "rate": 40.0}
    path = write_scenario(folder, requests=None, duration=0.3)
    assert command.sweep(path, changes, None, SweepOptions(), **options(folder, "http://127.0.0.1:9")) == code
    return json.loads((folder / "out" / "load-trial-sweep.json").read_text())


@pytest.mark.usefixtures("without_plots")
def test_a_sweep_finds_where_a_server_misses_its_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = FakeLoads(monkeypatch)
    document = sweep_document(tmp_path, "ttft_p50<0.1", command.OK)
    [found] = document["sweeps"]
    assert found["bracket"]["met"] < 100 <= found["bracket"]["missed"] < 1.1 * found["bracket"]["met"]
    assert len(document["runs"]) == len(loads.seeds)
    assert loads.seeds == list(range(len(loads.seeds)))  # no prompt is repeated
    assert found["sustained"]["state"]["end"] >= 120
    assert "sustained for 1" in (tmp_path / "out" / "load-trial-sweep.md").read_text()
    assert "is met up to" in (tmp_path / "out" / "load-trial-sweep.html").read_text()


@pytest.mark.usefixtures("without_plots")
def test_a_sweep_that_always_misses_ends_where_a_rate_has_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeLoads(monkeypatch, min_rate=5.0)
    document = sweep_document(tmp_path, "ttft_p50<1e-6", command.GOAL_MISSED)
    [found] = document["sweeps"]
    assert found["bracket"] == {"met": 0.0, "missed": 5.0}
    assert len(document["runs"]) == 4
    assert "is missed even at" in (tmp_path / "out" / "load-trial-sweep.md").read_text()


def test_a_sweep_of_a_real_load_finds_where_a_server_misses_its_goal(tmp_path: Path) -> None:
    fake = FakeServer()
    recent: list[float] = []

    def slow_when_busy(body: dict[str, Any]) -> float:
        recent[:] = [at for at in fake.times if at > fake.times[-1] - 0.5]
        return 0.2 if len(recent) > 30 else 0.0

    fake.delay = slow_when_busy
    with in_a_thread(fake) as url:
        changes = {"goal": "ttft_p50<0.1", "duration": 1.0, "rate": 40.0}
        path = write_scenario(tmp_path, requests=None, duration=1.0, arrivals={"process": "constant", "rate": 40.0})
        assert command.sweep(path, changes, None, LONG_ENOUGH, **options(tmp_path, url)) == command.OK
    document = json.loads((tmp_path / "out" / "load-trial-sweep.json").read_text())
    [found] = document["sweeps"]
    assert 20 <= found["bracket"]["met"] < found["bracket"]["missed"] <= 160
    assert len(document["runs"]) >= 2
    assert "is met up to" in (tmp_path / "out" / "load-trial-sweep.html").read_text()


def test_a_sweep_of_a_real_load_ends_where_no_random_request_comes_in_time(tmp_path: Path) -> None:
    with in_a_thread(FakeServer()) as url:
        changes = {"goal": "ttft_p50<1e-6", "duration": 0.3, "rate": 40.0}
        path = write_scenario(tmp_path, requests=None, duration=0.3)
        assert command.sweep(path, changes, None, QUICK, **options(tmp_path, url)) == command.GOAL_MISSED
    document = json.loads((tmp_path / "out" / "load-trial-sweep.json").read_text())
    [bracket] = [found["bracket"] for found in document["sweeps"]]
    assert bracket == {"met": 0.0, "missed": min(run["scenario"]["arrivals"]["rate"] for run in document["runs"])}
    assert "is missed even at" in (tmp_path / "out" / "load-trial-sweep.md").read_text()


def test_a_sweep_whose_first_rate_has_no_request_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with in_a_thread(FakeServer()) as url:
        path = write_scenario(tmp_path, requests=None, duration=0.1)
        assert command.sweep(path, {"rate": 0.001}, None, QUICK, **options(tmp_path, url)) == command.FAILED
    assert "sends no request within 4 s" in capsys.readouterr().err.replace("\n", " ")


def test_a_sweep_without_a_goal_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scenario(tmp_path, goal=None)
    assert command.sweep(path, {}, None, QUICK, **options(tmp_path, "http://127.0.0.1:9")) == command.FAILED
    assert "needs a goal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "server", "reason"),
    [
        ({"rate": -1.0}, "http://127.0.0.1:9", "rate"),
        ({"rate": float("nan")}, "http://127.0.0.1:9", "rate"),
        ({"duration": 0.0}, "http://127.0.0.1:9", "duration"),
        ({"goal": "quick"}, "http://127.0.0.1:9", "invalid goal 'quick'"),
        ({}, "http://127.0.0.1:9", "no server answers at http://127.0.0.1:9"),
        ({}, "http://127.0.0.1:99999", "no server answers"),
        ({}, "http://", "no server answers"),
        ({}, "elsewhere", "unknown server 'elsewhere'"),
    ],
)
def test_a_load_test_that_can_not_run_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], server: str, reason: str
) -> None:
    assert command.run(write_scenario(tmp_path), changes, None, **options(tmp_path, server)) == command.FAILED
    assert reason in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("title: [", "is not YAML"),
        ("just text", "valid dictionary"),
        ("title: a\nspeed: 3", "speed"),
        ("title: a\narrivals: {process: poisson, rate: 1}\nmix: {names: [base]}", "the load has no end"),
        ("title: a\narrivals: {process: chaos, rate: 1}\nmix: {names: [base]}\nrequests: 1", "chaos"),
        ("&a [*a, *a]", "valid dictionary"),
    ],
)
def test_a_broken_scenario_is_an_error_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    assert command.run(str(path), {}, None, **options(tmp_path, "http://127.0.0.1:9")) == command.FAILED
    error = capsys.readouterr().err.replace("\n", " ")
    assert "broken.yaml" in error
    assert reason in error


def test_an_unknown_scenario_is_an_error_that_lists_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run("../secrets", {}, None, **options(tmp_path, "http://127.0.0.1:9")) == command.FAILED
    assert "mixed" in capsys.readouterr().err


def test_the_name_of_a_server_never_leaves_the_folder(tmp_path: Path) -> None:
    from loramux_loadtests.loadtest.output import Invocation

    rows = Invocation("../../x", scenario(), (), 0, tmp_path).rows_path("http://a/../../etc/passwd\0")
    assert rows.parent == tmp_path
    assert rows.name == "load-x.http-a-etc-passwd.jsonl"


@pytest.mark.usefixtures("without_plots")
def test_a_killed_load_leaves_its_rows_of_which_a_report_is_made(tmp_path: Path) -> None:
    with in_a_thread(FakeServer()) as url:
        process = start_load(tmp_path, url)
        process.kill()
        process.wait()
    [rows] = (tmp_path / "out").glob("*.jsonl")
    assert not list((tmp_path / "out").glob("*.html"))
    assert command.report([rows], None, tmp_path / "again", as_json=False) == command.FAILED
    [run] = json.loads((tmp_path / "again" / "load-trial.json").read_text())["runs"]
    assert run["vllm"]["completed"] > 0
    assert any("in flight are missing" in warning for warning in run["warnings"])


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(("limit", "code"), [(5.0, command.OK), (1e-6, command.GOAL_MISSED)])
def test_a_report_made_again_from_complete_rows_equals_the_first_one(tmp_path: Path, limit: float, code: int) -> None:
    with in_a_thread(FakeServer()) as url:
        arguments = options(tmp_path, url)
        assert command.run(write_scenario(tmp_path, goal=f"ttft_p95<{limit}"), {}, None, **arguments) == code
    [rows] = (tmp_path / "out").glob("*.jsonl")
    assert command.report([rows], None, tmp_path / "again", as_json=False) == code
    first, again = (json.loads((tmp_path / name / "load-trial.json").read_text()) for name in ("out", "again"))
    assert again == first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_reports_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    with in_a_thread(FakeServer()) as url:
        process = start_load(tmp_path, url)
        process.send_signal(number)
        assert process.wait(30) == command.INTERRUPTED
    [run] = json.loads((tmp_path / "out" / "load-trial.json").read_text())["runs"]
    assert run["vllm"]["completed"] > 0
    assert any("interrupted" in warning for warning in run["warnings"])
    [rows] = (tmp_path / "out").glob("*.jsonl")
    assert command.report([rows], None, tmp_path / "again", as_json=False) == command.INTERRUPTED


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_reports_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    fake = FakeServer()

    def interrupt(body: dict[str, Any]) -> float:
        if len(fake.requests) == 30:
            os.kill(os.getpid(), number)
        return 0.0

    fake.delay = interrupt
    with in_a_thread(fake) as url:
        path = write_scenario(tmp_path, requests=None, duration=600.0)
        assert command.run(path, {}, None, **options(tmp_path, url)) == command.INTERRUPTED
    [run] = json.loads((tmp_path / "out" / "load-trial.json").read_text())["runs"]
    assert run["vllm"]["completed"] > 0
    assert any("interrupted" in warning for warning in run["warnings"])


def start_load(folder: Path, url: str) -> subprocess.Popen[bytes]:
    """Start an endless load in a process, and wait for some rows."""
    path = write_scenario(folder, requests=None, duration=600.0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.processes.run_scenario", path, url, str(folder / "out")], env=environment
    )
    while sum(rows.read_text().count("\n") for rows in (folder / "out").glob("*.jsonl")) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_report_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"number": 1}\n')
    assert command.report([tmp_path / "a.jsonl"], None, tmp_path, as_json=False) == command.FAILED
    assert "line 1: this is not a row" in capsys.readouterr().err.replace("\n", " ")


def test_all_built_in_scenarios_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.list_scenarios() == command.OK
    listed = capsys.readouterr().out
    expected = (
        "base",
        "adapter",
        "mixed",
        "thousand-uniform",
        "thousand-skewed",
        "churn",
        "cold-burst",
        "long-prompts",
        "soak",
        "fine-tuning",
    )
    assert all(name in listed for name in expected)
