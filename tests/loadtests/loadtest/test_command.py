import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from loramux_loadtests.loadtest import command
from tests.helpers.load_rows import scenario
from tests.helpers.scripted_server import FakeServer, serving

PLAIN = scenario(mix={"names": ["base", "tone"]}, goal="ttft_p95<5,errors<0.5").model_dump(
    mode="json", exclude_unset=True
)


@contextmanager
def in_a_thread(fake: FakeServer) -> Iterator[str]:
    """A server that answers while this thread runs a command."""
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


def write_scenario(folder: Path, **changes: Any) -> str:
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(PLAIN | changes))
    return str(path)


def order(folder: Path, *servers: str, **more: Any) -> dict[str, Any]:
    return {"servers": servers, "seed": 0, "output": folder / "out", **more}


def test_a_run_writes_its_rows_a_page_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with in_a_thread(FakeServer()) as url:
        assert command.run(write_scenario(tmp_path), {}, None, **order(tmp_path, url)) == command.OK
    out = tmp_path / "out"
    assert sorted(path.suffix for path in out.iterdir()) == [".html", ".json", ".jsonl", ".md"]
    [run] = json.loads((out / "load-trial.json").read_text())["runs"]
    assert (run["vllm"]["completed"], run["vllm"]["total_output_tokens"]) == (20, 60)
    assert set(run["routes"]) == {"base", "tone"}
    assert run["missed"] == []
    assert "met" in (out / "load-trial.md").read_text()
    assert "first piece with text" in (out / "load-trial.html").read_text()
    assert "tone" in capsys.readouterr().out


def test_a_missed_goal_is_told_by_the_exit_code(tmp_path: Path) -> None:
    with in_a_thread(FakeServer(delay=lambda _: 0.05)) as url:
        changes = {"goal": "ttft_p50<0.01", "requests": 5}
        assert command.run(write_scenario(tmp_path), changes, None, **order(tmp_path, url)) == command.GOAL_MISSED


def test_a_server_that_answers_nothing_well_is_a_failure(tmp_path: Path) -> None:
    with in_a_thread(FakeServer(refuses=lambda body: 500 if body["max_tokens"] == 3 else 0)) as url:
        assert command.run(write_scenario(tmp_path, goal=None), {}, None, **order(tmp_path, url)) == command.FAILED
    assert "20 http 500" in (tmp_path / "out" / "load-trial.md").read_text()


def test_two_servers_are_compared_in_one_report_with_the_same_load(tmp_path: Path) -> None:
    with in_a_thread(FakeServer()) as url, in_a_thread(FakeServer(delay=lambda _: 0.05)) as other:
        assert command.run(write_scenario(tmp_path), {}, None, **order(tmp_path, url, other)) == command.OK
    runs = json.loads((tmp_path / "out" / "load-trial.json").read_text())["runs"]
    assert [run["server"] for run in runs] == [url, other]
    assert runs[1]["vllm"]["median_ttft_ms"] > 50 > runs[0]["vllm"]["median_ttft_ms"]
    assert runs[0]["vllm"]["total_input_tokens"] == runs[1]["vllm"]["total_input_tokens"]


def test_a_sweep_finds_where_a_server_begins_to_miss_its_goal(tmp_path: Path) -> None:
    fake = FakeServer()
    recent: list[float] = []

    def slow_when_busy(body: dict[str, Any]) -> float:
        recent[:] = [at for at in fake.moments if at > fake.moments[-1] - 0.5]
        return 0.2 if len(recent) > 30 else 0.0

    fake.delay = slow_when_busy
    with in_a_thread(fake) as url:
        changes = {"goal": "ttft_p50<0.1", "duration": 1.0, "rate": 20.0}
        path = write_scenario(tmp_path, requests=None, duration=1.0, arrivals={"process": "constant", "rate": 20.0})
        assert command.sweep(path, changes, None, 0.5, **order(tmp_path, url)) == command.OK
    document = json.loads((tmp_path / "out" / "load-trial-sweep.json").read_text())
    [found] = document["sweeps"]
    assert 20 <= found["bracket"]["met"] < found["bracket"]["missed"] <= 160
    assert len(document["runs"]) >= 3
    assert "is met up to" in (tmp_path / "out" / "load-trial-sweep.html").read_text()


def test_a_sweep_that_always_misses_ends_where_no_random_request_comes_in_its_time(tmp_path: Path) -> None:
    with in_a_thread(FakeServer()) as url:
        changes = {"goal": "ttft_p50<1e-6", "duration": 0.3, "rate": 40.0}
        path = write_scenario(tmp_path, requests=None, duration=0.3)
        assert command.sweep(path, changes, None, 0.5, **order(tmp_path, url)) == command.GOAL_MISSED
    document = json.loads((tmp_path / "out" / "load-trial-sweep.json").read_text())
    [bracket] = [found["bracket"] for found in document["sweeps"]]
    assert bracket == {"met": 0.0, "missed": 40.0 / 2 ** (len(document["runs"]) - 1)}
    assert "is missed even at" in (tmp_path / "out" / "load-trial-sweep.md").read_text()


def test_a_sweep_whose_first_rate_brings_no_request_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with in_a_thread(FakeServer()) as url:
        path = write_scenario(tmp_path, requests=None, duration=0.1)
        assert command.sweep(path, {"rate": 0.001}, None, 0.5, **order(tmp_path, url)) == command.FAILED
    assert "sends no request within 0.1 s" in capsys.readouterr().err.replace("\n", " ")


def test_a_sweep_without_a_goal_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scenario(tmp_path, goal=None)
    assert command.sweep(path, {}, None, 0.1, **order(tmp_path, "http://127.0.0.1:9")) == command.FAILED
    assert "needs a goal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "server", "reason"),
    [
        ({"rate": -1.0}, "http://127.0.0.1:9", "rate"),
        ({"rate": float("nan")}, "http://127.0.0.1:9", "rate"),
        ({"duration": 0.0}, "http://127.0.0.1:9", "duration"),
        ({"goal": "quick"}, "http://127.0.0.1:9", "'quick' is no goal"),
        ({}, "http://127.0.0.1:9", "no server answers at http://127.0.0.1:9"),
        ({}, "http://127.0.0.1:99999", "no server answers"),
        ({}, "http://", "no server answers"),
        ({}, "elsewhere", "'elsewhere' is no server"),
    ],
)
def test_what_can_not_be_run_is_told_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], server: str, reason: str
) -> None:
    assert command.run(write_scenario(tmp_path), changes, None, **order(tmp_path, server)) == command.FAILED
    assert reason in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("title: [", "is not YAML"),
        ("just text", "valid dictionary"),
        ("title: a\nspeed: 3", "speed"),
        ("title: a\narrivals: {process: poisson, rate: 1}\nmix: {names: [base]}", "say when the load ends"),
        ("title: a\narrivals: {process: chaos, rate: 1}\nmix: {names: [base]}\nrequests: 1", "chaos"),
        ("&a [*a, *a]", "valid dictionary"),
    ],
)
def test_a_broken_scenario_is_told_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    assert command.run(str(path), {}, None, **order(tmp_path, "http://127.0.0.1:9")) == command.FAILED
    error = capsys.readouterr().err.replace("\n", " ")
    assert "broken.yaml" in error
    assert reason in error


def test_a_scenario_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run("../secrets", {}, None, **order(tmp_path, "http://127.0.0.1:9")) == command.FAILED
    assert "mixed" in capsys.readouterr().err


def test_the_name_of_a_server_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    from loramux_loadtests.loadtest.output import Order

    rows = Order("../../x", scenario(), (), 0, tmp_path).rows("http://a/../../etc/passwd\0")
    assert rows.parent == tmp_path
    assert rows.name == "load-x.http-a-etc-passwd.jsonl"


def test_a_killed_load_leaves_its_rows_of_which_a_report_is_made(tmp_path: Path) -> None:
    with in_a_thread(FakeServer()) as url:
        process = begun(tmp_path, url)
        process.kill()
        process.wait()
    [rows] = (tmp_path / "out").glob("*.jsonl")
    assert not list((tmp_path / "out").glob("*.html"))
    assert command.report([rows], None, tmp_path / "again", as_json=False) == command.FAILED
    [run] = json.loads((tmp_path / "again" / "load-trial.json").read_text())["runs"]
    assert run["vllm"]["completed"] > 10
    assert any("under way are missing" in words for words in run["warnings"])


@pytest.mark.parametrize(("limit", "code"), [(5.0, command.OK), (1e-6, command.GOAL_MISSED)])
def test_a_report_made_anew_from_a_whole_load_is_the_one_there_was(tmp_path: Path, limit: float, code: int) -> None:
    with in_a_thread(FakeServer()) as url:
        asked = order(tmp_path, url)
        assert command.run(write_scenario(tmp_path, goal=f"ttft_p95<{limit}"), {}, None, **asked) == code
    [rows] = (tmp_path / "out").glob("*.jsonl")
    assert command.report([rows], None, tmp_path / "again", as_json=False) == code
    first, again = (json.loads((tmp_path / name / "load-trial.json").read_text()) for name in ("out", "again"))
    assert again == first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_reports_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    with in_a_thread(FakeServer()) as url:
        process = begun(tmp_path, url)
        process.send_signal(number)
        assert process.wait(30) == command.INTERRUPTED
    [run] = json.loads((tmp_path / "out" / "load-trial.json").read_text())["runs"]
    assert run["vllm"]["completed"] > 10
    assert any("interrupted" in words for words in run["warnings"])
    [rows] = (tmp_path / "out").glob("*.jsonl")
    assert command.report([rows], None, tmp_path / "again", as_json=False) == command.INTERRUPTED


def begun(folder: Path, url: str) -> subprocess.Popen[bytes]:
    """A load without an end, of which some rows are on disk."""
    path = write_scenario(folder, requests=None, duration=600.0)
    code = (
        "import sys; from pathlib import Path; from loramux_loadtests.loadtest import command\n"
        "sys.exit(command.run(sys.argv[1], {}, None, servers=[sys.argv[2]], seed=0, output=Path(sys.argv[3])))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code, path, url, str(folder / "out")], env=environment)
    while sum(rows.read_text().count("\n") for rows in (folder / "out").glob("*.jsonl")) < 20:
        assert process.poll() is None
    return process


def test_a_report_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"number": 1}\n')
    assert command.report([tmp_path / "a.jsonl"], None, tmp_path, as_json=False) == command.FAILED
    assert "line 1: this is no row" in capsys.readouterr().err.replace("\n", " ")


def test_the_scenarios_of_the_repository_are_all_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.list_scenarios() == command.OK
    listed = capsys.readouterr().out
    wanted = (
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
    assert all(name in listed for name in wanted)
