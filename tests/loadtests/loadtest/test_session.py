import asyncio
from pathlib import Path

import pytest

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.rows import read_rows
from loramux_loadtests.loadtest.session import LoadRun, TargetServer, run_load
from loramux_loadtests.loadtest.summary import client_health, without_warm_up
from tests.helpers.load_rows import scenario
from tests.helpers.scripted_server import FakeServer, serving


async def load(fake: FakeServer, folder: Path, **changes: object) -> LoadRun:
    return await run_load(scenario(**changes), TargetServer("fake", fake.url), 0, folder / "rows.jsonl", ProgressLine())


async def test_requests_are_sent_on_schedule_though_none_was_answered_yet(tmp_path: Path) -> None:
    arrivals = {"process": "constant", "rate": 50.0}
    async with serving(FakeServer(delay=lambda body: 0.6 if body["max_tokens"] == 3 else 0.0)) as fake:
        run = await load(fake, tmp_path, arrivals=arrivals)
    sent = fake.times[-20:]
    assert sent[-1] - sent[0] == pytest.approx(19 / 50, abs=0.15)
    assert [row.scheduled for row in sorted(run.rows, key=lambda row: row.number)] == pytest.approx(
        [n / 50 for n in range(20)]
    )
    assert all(0.6 <= (row.seconds("ttft_scheduled") or 0) < 1.1 for row in run.rows)
    assert client_health(run.rows, None).lag_p99 < 0.1
    assert run.client_busy is not None
    assert run.ended_early is None


async def test_scheduled_times_include_the_delay_of_a_late_client(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        run = await load(fake, tmp_path, arrivals={"process": "bursts", "rate": 1000.0, "size": 20})
    for row in run.rows:
        assert (row.seconds("ttft_scheduled") or 0) >= (row.seconds("ttft") or 0)


async def test_fixed_lengths_are_requested_with_vllms_parameters_and_natural_ones_are_not(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        await load(fake, tmp_path)
        assert (fake.requests[-1]["ignore_eos"], fake.requests[-1]["min_tokens"], fake.requests[-1]["max_tokens"]) == (
            True,
            3,
            3,
        )
        await load(fake, tmp_path, output={"tokens": 5, "natural": True})
        assert (fake.requests[-1]["max_tokens"], fake.requests[-1].keys() & {"ignore_eos", "min_tokens"}) == (5, set())


async def test_the_base_is_whatever_the_server_calls_it(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        run = await load(fake, tmp_path, mix={"names": ["base", "tone"]})
    assert {(row.route, row.model) for row in run.rows} == {("base", "tiny"), ("tone", "tone")}


async def test_the_warm_up_comes_first_and_is_not_part_of_the_load(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        run = await load(fake, tmp_path, warm_up={"requests": 5, "routes": ["base", "tone"]})
    assert [row.phase for row in run.rows] == ["warm-up"] * 5 + ["load"] * 20
    assert len(without_warm_up(run.rows)) == 20


async def test_errors_are_rows_and_the_load_goes_on(tmp_path: Path) -> None:
    refused = FakeServer(error_status=lambda body: 429 if body["model"] == "tone" else 0)
    async with serving(refused) as fake:
        run = await load(fake, tmp_path, mix={"names": ["base", "tone"], "popularity": "in turn"})
    assert {(row.route, row.error) for row in run.rows} == {("base", None), ("tone", "http 429")}
    assert read_rows(tmp_path / "rows.jsonl")[1] == run.rows


async def test_requests_that_do_not_end_in_time_are_abandoned(tmp_path: Path) -> None:
    async with serving(FakeServer(delay=lambda body: 30.0 if body["model"] == "tone" else 0.0)) as fake:
        run = await load(fake, tmp_path, mix={"names": ["base", "tone"], "popularity": "in turn"}, drain=0.2)
    assert sorted({(row.route, row.error) for row in run.rows}, key=str) == [("base", None), ("tone", "abandoned")]
    assert len(run.rows) == 20


async def test_an_interrupted_load_keeps_its_rows_and_those_of_requests_in_flight(tmp_path: Path) -> None:
    async with serving(FakeServer(delay=lambda body: 0.0 if body["model"] == "tiny" else 30.0)) as fake:
        mix = {"names": ["base", "tone"], "popularity": "in turn"}
        task = asyncio.create_task(load(fake, tmp_path, mix=mix, requests=None, duration=60.0))
        while len(fake.requests) < 30:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        run = await task
    assert run.ended_early == "interrupted"
    assert {row.error for row in run.rows} == {None, "abandoned"}
    assert read_rows(tmp_path / "rows.jsonl")[1] == run.rows


async def test_a_server_that_goes_away_ends_the_load_with_the_rows_so_far(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        task = asyncio.create_task(load(fake, tmp_path, requests=None, duration=60.0))
        while len(fake.requests) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    run = await asyncio.wait_for(task, 20)
    assert "accepted none of the last" in str(run.ended_early)
    assert None in {row.error for row in run.rows}


async def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="no server answers at http://127"):
        await load(FakeServer(url="http://127.0.0.1:9"), tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


async def test_an_unknown_route_is_an_error_that_names_a_similar_one(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        with pytest.raises(LoadTestError, match="no model toone; it has, for example, tone"):
            await load(fake, tmp_path, mix={"names": ["toone"]})
        assert fake.paths == ["GET /v1/models/toone"]
        assert fake.requests == []


async def test_an_address_of_something_else_is_an_error(tmp_path: Path) -> None:
    async with serving(FakeServer()) as fake:
        with pytest.raises(LoadTestError, match="answers 404"):
            await load(FakeServer(url=fake.url + "/deeper"), tmp_path)


async def test_too_many_requests_at_once_are_rows_that_were_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loramux_loadtests.loadtest.runner.max_concurrent_requests", lambda: 4)
    async with serving(FakeServer(delay=lambda body: 0.6 if body["max_tokens"] == 3 else 0.0)) as fake:
        run = await load(fake, tmp_path)
    kinds = [row.error for row in run.rows]
    assert (kinds.count(None), kinds.count("not sent")) == (4, 16)
