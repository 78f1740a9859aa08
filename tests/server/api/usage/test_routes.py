"""/admin/usage and `loramux usage`: counts, costs and comparisons."""

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from loramux_server.api.usage.schemas import BreakEven
from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server

PRICES = {
    "base": {"input": 1, "output": 2},
    "adapter": {"multiplier": 0.5, "training": 3},
    "gpu_hour": 3600,
    "storage_gb_month": 1000,
}
pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the shared server


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
    assert (await usage(tiny, 2, route="adapter"))["groups"][0]["against_base"]
    assert (await tiny.http.get("/admin/usage", params={"route": "other"})).status_code == 400


async def test_each_route_has_tokens_latency_and_cost_relative_to_the_base(tiny: TinyServer) -> None:
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
        assert 0 < group["latency"]["first_token"]["p50"] <= group["latency"]["duration"]["p99"] * 1.02
    tone = by_name["tone"]
    ratio = tone["against_base"]["input_tokens_mean"]
    expected = answers[1].usage.prompt_tokens / answers[0].usage.prompt_tokens
    assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert ratio["ratio"] == pytest.approx(expected, rel=0.03)
    assert tone["break_even"]["price_list"]["fixed_cost_usd"] > 3
    assert tone["break_even"]["price_list"]["requests"] > 1
    assert by_name["base"]["against_base"] is None
    versions = await usage(tiny, 1, group_by="version", adapter="tone")
    assert [group["label"]["version"] for group in versions["groups"]] == [version.partition("@")[2]]


async def test_the_old_name_of_the_fixed_cost_is_still_sent_and_marked_as_deprecated(shared: TinyServer) -> None:
    await shared.add("old-name")
    for model in ("tiny", "old-name"):
        await shared.chat(model)
    [tone] = (await usage(shared, 1, adapter="old-name"))["groups"]
    for mode in ("price_list", "gpu_hour"):
        assert tone["break_even"][mode]["to_earn_usd"] == tone["break_even"][mode]["fixed_cost_usd"]
    properties = BreakEven.model_json_schema()["properties"]
    assert properties["to_earn_usd"]["deprecated"] is True
    assert "deprecated" not in properties["fixed_cost_usd"]


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


async def test_the_command_prints_a_table_json_or_csv(tiny: TinyServer) -> None:
    await tiny.add("tone")
    for model in ("tiny", "tone"):
        await tiny.chat(model)
    await usage(tiny, 2)

    async def run(*arguments: str) -> str:
        environment = {"LORAMUX_CLI_URL": tiny.url, "COLUMNS": "250"}
        result = await asyncio.to_thread(CliRunner().invoke, app, ["usage", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    table = await run()
    assert "tone" in table
    assert "break-even" in table
    assert json.loads(await run("--json"))["count"] == 2
    assert (await run("--csv")).startswith("label.route,label.adapter,requests")
    assert "no request finished" in await run("--until", str(time.time() - 1e6))
