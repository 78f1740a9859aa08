"""/admin/usage and `loramux usage`: counts, costs and controlled results."""

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from loramux_server import database as db
from loramux_server.api.usage.schemas import Group
from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from loramux_server.metering.ledger.tables import usage_records
from loramux_server.metering.ledger.time_range import format_time
from tests.helpers.evaluated_jobs import EVALUATION, add_version_of_job, evaluated_job
from tests.helpers.tiny_server import TinyServer, tiny_server
from tests.helpers.usage_history import write_usage_history

PRICES = {
    "base": {"input": 1, "output": 2},
    "adapter": {"multiplier": 0.5, "training": 3},
    "gpu_hour": 3600,
    "storage_gb_month": 1000,
}
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path: Path) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base, prices=PRICES) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that don't count all its requests."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, prices=PRICES) as server:
        yield server


async def usage(tiny: TinyServer, requests: int, **query: Any) -> dict[str, Any]:
    """Return the usage report once the ledger has this many requests."""
    async with asyncio.timeout(10):
        while True:
            answer = (await tiny.http.get("/admin/usage", params=query)).json()
            if answer["total"] is not None and answer["total"]["requests"] >= requests:
                found: dict[str, Any] = answer
                return found
            await asyncio.sleep(0.02)


async def test_a_report_can_be_limited_to_the_base_or_to_adapters(tiny: TinyServer) -> None:
    await tiny.add("tone")
    for model in ("tiny", "tone", "tone"):
        await tiny.chat(model)
    await usage(tiny, 3)
    for route, requests in (("base", 1), ("adapter", 2)):
        report = await usage(tiny, requests, group_by="hour", route=route)
        assert [group["requests"] for group in report["groups"]] == [requests]
    assert (await tiny.http.get("/admin/usage", params={"route": "other"})).status_code == 400


async def test_each_route_has_tokens_latency_and_cost(tiny: TinyServer) -> None:
    version = await tiny.add("tone")
    answers = [await tiny.chat("tiny", "x" * 60), await tiny.chat("tone")]
    report = await usage(tiny, 2)
    by_name = {group["label"]["adapter"] or "base": group for group in report["groups"]}
    assert set(by_name) == {"base", "tone"}
    for answer, name in zip(answers, ("base", "tone"), strict=True):
        group = by_name[name]
        tokens = answer.usage
        assert group["outcomes"] == {"ok": 1}
        assert (group["tokens"]["input"], group["tokens"]["output"]) == (tokens.prompt_tokens, tokens.completion_tokens)
        price = tokens.prompt_tokens * 1000 + tokens.completion_tokens * 2000
        assert group["cost"]["price_list"]["nanodollars"] == (price if name == "base" else round(price / 2))
        assert group["cost"]["gpu_hour"]["nanodollars"] > 0
        assert 0 < group["latency"]["first_token"]["p50"] <= group["latency"]["duration"]["max"] * 1.02
    versions = await usage(tiny, 1, group_by="version", adapter="tone")
    assert [group["label"]["version"] for group in versions["groups"]] == [version.partition("@")[2]]


async def test_routes_are_not_compared_by_their_live_traffic(tiny: TinyServer) -> None:
    """T4: live traffic is not an experiment; the fields of earlier releases are null, and marked as deprecated."""
    await tiny.add("tone")
    for model in ("tiny", "tone"):
        for _ in range(12):  # the load test of the base that turned a saving of 55 % into six times the cost
            await tiny.chat(model)
    for by in ("route", "adapter", "version"):
        for group in (await usage(tiny, 24, group_by=by))["groups"]:
            assert (group["against_base"], group["break_even"], group["controlled"]) == (None, None, None)
    properties = Group.model_json_schema()["properties"]
    for name in ("against_base", "break_even"):
        assert (properties[name]["type"], properties[name]["deprecated"]) == ("null", True)


async def test_an_adapter_has_the_last_controlled_result_with_its_version_date_and_break_even(tiny: TinyServer) -> None:
    """T4: what is shown in place of a ratio of live traffic is the last controlled comparison."""
    database = db.create_engine(tiny.settings.database_url)
    job = evaluated_job(database, "tone", 1_700_000_000.0)
    version = await add_version_of_job(tiny, "tone", job)
    await tiny.chat("tone")
    [tone] = (await usage(tiny, 1))["groups"]
    found = tone["controlled"]
    assert (found["kind"], found["id"], found["version"], found["is_current"]) == ("job", job, version, True)
    assert (found["verdict"], found["sentence"], found["items"]) == ("better", EVALUATION["sentence"], 30)
    assert (found["measured_at"], found["command"]) == ("2023-11-14T22:13:20Z", f"loramux finetune show {job}")
    saving, requests = found["break_even"]["saving_usd_per_request"], found["break_even"]["requests"]
    # The base's prompt costs a dollar per million tokens, the adapter's half of it; the answers 4 tokens each.
    assert saving["mean"] == pytest.approx((705 + 4 * 2 - (40 + 4 * 2) / 2) * 1e-6)
    assert found["break_even"]["fixed_cost_usd"] > 3
    assert requests["low"] <= requests["estimate"] <= requests["high"]
    assert found["break_even"]["sentence"].startswith(f"pays after {requests['estimate']:,} [")

    other = await tiny.add("tone", seed=7)
    await tiny.chat("tone")
    [tone] = (await usage(tiny, 2))["groups"]
    assert (tone["controlled"]["version"], tone["controlled"]["is_current"]) == (version, False)
    by_version = {
        f"tone@{group['label']['version']}": group["controlled"]
        for group in (await usage(tiny, 2, group_by="version"))["groups"]
    }
    assert by_version[other] is None
    assert by_version[version]["id"] == job


async def test_without_prices_costs_and_break_even_are_unknown(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    """T5: unpriced is unknown, not zero."""
    async with tiny_server(tmp_path, tiny_base) as tiny:
        job = evaluated_job(db.create_engine(tiny.settings.database_url), "tone", 1_700_000_000.0)
        await add_version_of_job(tiny, "tone", job)
        await tiny.chat("tone")
        await tiny.http.post("/v1/chat/completions", json={"model": "nobody", "messages": []})
        report = await usage(tiny, 2)
        for group in (*(each for each in report["groups"] if each["label"]["adapter"]), report["total"]):
            for mode in ("price_list", "gpu_hour"):
                unknown = dict.fromkeys(("nanodollars", "usd", "usd_per_request", "usd_per_1000_output_tokens"))
                assert group["cost"][mode] == unknown | {"unpriced_requests": 1}
        tone = next(group for group in report["groups"] if group["label"]["adapter"])
        assert tone["controlled"]["break_even"] == {
            "sentence": "unknown: no prices set",
            "saving_usd_per_request": None,
            "fixed_cost_usd": None,
            "requests": None,
        }
        assert (report["engine"]["requests_usd"], report["engine"]["idle_usd"]) == (None, None)
        assert report["prices_set"] == {"price_list": False, "gpu_hour": False}
        text = await printed(tiny)
        assert "by price: 1 requests unpriced; their cost is unknown and in no sum" in text
        assert not [line for line in text.splitlines() if line.split()[:1] == ["tone"] and "$" in line]
        assert "break-even by the price list: unknown: no prices set" in text


async def test_quantiles_of_few_requests_are_not_shown(tiny: TinyServer) -> None:
    """T5: a 95 % quantile of one request would be that request."""
    for count, known in ((1, {"p50"}), (20, {"p50", "p95"}), (100, {"p50", "p95", "p99"})):
        already = (await tiny.http.get("/admin/usage")).json()["total"]
        for _ in range(count - (already["requests"] if already else 0)):
            await tiny.chat("tiny", max_tokens=1)
        [base] = (await usage(tiny, count))["groups"]
        duration = base["latency"]["duration"]
        assert duration["count"] == count
        assert {name for name in ("p50", "p95", "p99") if duration[name] is not None} == known
        assert duration["p50"] <= duration["max"]


async def test_a_range_is_exactly_the_one_that_was_asked_for(tiny: TinyServer) -> None:
    """T13: the last day has 24 hours, and no end in the future."""
    write_usage_history(db.create_engine(tiny.settings.database_url), ["tone"], 4000, hours=40)
    report = await usage(tiny, 1)
    ends = [datetime.fromisoformat(report[name]).timestamp() for name in ("since", "until")]
    assert ends[1] - ends[0] == pytest.approx(24 * 3600, abs=1)
    assert ends[1] == pytest.approx(time.time(), abs=5)
    assert report["total"]["requests"] == pytest.approx(4000 * 24 / 40, abs=3)
    now = time.time()
    hour = await usage(tiny, 1, since=now - 5400, until=now - 1800)
    assert hour["total"]["requests"] == pytest.approx(100, abs=2)
    tomorrow = await usage(tiny, 1, until=now + 86_400)
    assert tomorrow["until"] == format_time(now) or tomorrow["until"] > format_time(now - 1)


async def test_where_single_records_are_deleted_the_report_covers_whole_hours_and_says_so(
    tiny_base: ResolvedBase, tmp_path: Path
) -> None:
    """T13: minutes of which only hourly totals are left are not silently missing."""
    async with tiny_server(tmp_path, tiny_base, usage_record_days=0.01) as tiny:
        database = db.create_engine(tiny.settings.database_url)
        write_usage_history(database, ["tone"], 400, hours=4)
        with database.begin() as connection:
            connection.execute(usage_records.delete().where(usage_records.c.ended_at < time.time() - 4000))
        now = time.time()
        report = await usage(tiny, 1, since=now - 10_000, until=now)
        start = (now - 10_000) // 3600 * 3600
        assert report["since"] == format_time(start)
        assert report["total"]["requests"] == pytest.approx((now - start) / 36, abs=3)


async def test_costs_of_requests_and_idle_time_add_up_to_the_engines_cost(tiny: TinyServer) -> None:
    await asyncio.gather(*(tiny.chat("tiny", f"{number}") for number in range(8)))
    report = await usage(tiny, 8)
    engine = report["engine"]
    # One dollar per second. The present minute's row grows meanwhile, so only the report's own numbers must agree.
    assert engine["requests_usd"] + engine["idle_usd"] == pytest.approx(engine["seconds"], rel=1e-6, abs=1e-8)
    assert report["total"]["cost"]["gpu_hour"]["usd"] == pytest.approx(engine["requests_usd"], rel=1e-6)
    assert 0 < engine["busy_seconds"] < engine["seconds"]


async def test_refused_requests_are_counted_without_a_route(tiny: TinyServer) -> None:
    await tiny.http.post("/v1/chat/completions", json={"model": "nobody", "messages": []})
    report = await usage(tiny, 1, group_by="route")
    (group,) = report["groups"]
    assert (group["label"], group["outcomes"]) == ({"route": "none"}, {"refused": 1})
    assert group["latency"]["duration"]["p50"] is None


async def test_csv_has_a_column_per_figure(tiny: TinyServer) -> None:
    await tiny.chat("tiny")
    await usage(tiny, 1)
    answer = await tiny.http.get("/admin/usage", params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["label.route"], row["requests"], row["outcomes.ok"]) == ("base", "1", "1")
    assert float(row["cost.gpu_hour.usd_per_request"]) > 0


@pytest.mark.parametrize(
    "query",
    [
        {"since": "yesterday"},
        {"since": "2026-01-02", "until": "2026-01-01"},
        {"until": "1e400"},
        {"since": "nan"},
        {"since": "9" * 30, "until": "9" * 31},
        {"since": "-1e30"},
        {"since": str(time.time() + 1000)},
        {"group_by": "colour"},
        {"limit": 0},
        {"format": "xml"},
    ],
)
async def test_an_invalid_query_is_a_400(shared: TinyServer, query: dict[str, str]) -> None:
    answer = await shared.http.get("/admin/usage", params=query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_an_empty_time_range_gives_an_empty_report(shared: TinyServer) -> None:
    report = (await shared.http.get("/admin/usage", params={"since": 0, "until": 1})).json()
    assert (report["groups"], report["total"], report["count"]) == ([], None, 0)


async def printed(tiny: TinyServer, *arguments: str) -> str:
    """Return the output of `loramux usage`."""
    environment = {"LORAMUX_CLI_URL": tiny.url, "COLUMNS": "250"}
    result = await asyncio.to_thread(CliRunner().invoke, app, ["usage", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_the_command_prints_a_table_with_a_total_json_or_csv(tiny: TinyServer) -> None:
    await tiny.add("tone")
    for model in ("tiny", "tone"):
        await tiny.chat(model)
    await usage(tiny, 2)
    table = await printed(tiny)
    assert [line.split()[:4] for line in table.splitlines() if "total" in line] == [["total", "of", "2", "2"]]
    assert "break-even" not in table
    assert json.loads(await printed(tiny, "--json"))["count"] == 2
    assert (await printed(tiny, "--csv")).startswith("label.route,label.adapter,requests")
    assert "no request finished" in await printed(tiny, "--until", str(time.time() - 1e6))


async def test_the_command_shows_controlled_results_and_how_to_get_one(tiny: TinyServer) -> None:
    """T4: a verdict has its date, the measured version and its source."""
    job = evaluated_job(db.create_engine(tiny.settings.database_url), "tone", 1_700_000_000.0)
    version = await add_version_of_job(tiny, "tone", job)
    await tiny.add("other", seed=5)
    for model in ("tone", "other"):
        await tiny.chat(model)
    await usage(tiny, 2)
    text = await printed(tiny)
    assert f"tone: {EVALUATION['sentence']}" in text
    assert f"measured 2023-11-14, 30 items each, {version}, against base with 9 examples in its prompt" in text
    assert f"details: loramux finetune show {job}" in text
    assert "break-even by the price list: pays after " in text
    assert "no controlled result yet: other. Live traffic is not an experiment" in text
    assert "loramux experiment start other" in text
    await tiny.add("tone", seed=9)
    assert "tone points at other versions now" in await printed(tiny)
