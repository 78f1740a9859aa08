"""T13: every number that is shown in several places comes from one source, and is the same everywhere."""

import asyncio
import csv
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from loramux_server import database as db
from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.pricing import FixedPrices, Prices
from tests.helpers.evaluated_jobs import evaluated_job
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PRICES = {
    "base": {"input": 1000, "cached": 500, "output": 2000},
    "adapters": {"tone": {"multiplier": 3}},
    "gpu_hour": 9,
}
Route = tuple[str, str]
"""The kind of a route, and the adapter's name or nothing."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server after requests of many kinds, all of which are in its ledger."""
    async with tiny_server(tmp_path_factory.mktemp("truth"), tiny_base, prices=PRICES) as server:
        requests = await _send_requests(server)
        async with asyncio.timeout(10):
            while sum(each["requests"] for each in (await usage(server))["groups"]) < requests:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        yield server


async def _send_requests(tiny: TinyServer) -> int:
    """Send plain, streamed, parallel, cancelled and refused requests; returns their number."""
    old = await tiny.add("tone", seed=1)
    await tiny.add("tone", seed=2)
    await tiny.add("order/json", seed=3)
    for model in ("tiny", "tiny", "tone", old, "order/json"):
        await tiny.chat(model, model)
    await tiny.chat("tone", n=3)
    await tiny.client.completions.create(model="order/json", prompt=["a", "b"], max_tokens=3)
    async for _ in await tiny.chat("tone", stream=True):
        pass
    tiny.engine.seconds_per_token = 0.01
    cancelled = await tiny.chat("tiny", stream=True, max_tokens=100)
    await anext(aiter(cancelled))
    await cancelled.close()
    tiny.engine.seconds_per_token = 0
    for body in ({"model": "nobody", "messages": []}, {"model": "tone", "messages": [], "max_tokens": -1}):
        assert (await tiny.http.post("/v1/chat/completions", json=body)).is_client_error
    return 11


async def usage(tiny: TinyServer, **query: Any) -> Any:
    """Return the report of the API."""
    return (await tiny.http.get("/admin/usage", params=query)).json()


async def printed(tiny: TinyServer, *arguments: str) -> str:
    """Return the output of a command."""
    environment = {"LORAMUX_CLI_URL": tiny.url, "COLUMNS": "250"}
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def route_of(group: dict[str, Any]) -> Route:
    return group["label"]["route"], group["label"]["adapter"]


async def series(tiny: TinyServer, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the sums of a metric by labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for family in text_string_to_metric_families((await tiny.http.get("/metrics")).text):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += sample.value  # type: ignore[assignment]
    return dict(found)


async def test_the_ledger_and_the_metrics_count_the_same_requests_tokens_and_costs(tiny: TinyServer) -> None:
    """T13: /admin/usage and /metrics agree, by route, outcome, type of token and cost mode."""
    groups = {route_of(group): group for group in (await usage(tiny))["groups"]}
    assert set(groups) == {("base", ""), ("adapter", "tone"), ("adapter", "order/json"), ("none", "")}
    outcomes = {(*route, name): n for route, group in groups.items() for name, n in group["outcomes"].items()}
    assert outcomes == await series(tiny, "loramux_requests_total", "route", "adapter", "outcome")
    served = {route: group for route, group in groups.items() if route[0] != "none"}
    tokens = {(*route, kind): n for route, group in served.items() for kind, n in group["tokens"].items()}
    assert tokens == await series(tiny, "loramux_tokens_total", "route", "adapter", "type")
    costs = {(*route, mode): cost["usd"] for route, group in served.items() for mode, cost in group["cost"].items()}
    assert costs == pytest.approx(await series(tiny, "loramux_cost_usd_total", "route", "adapter", "mode"))
    assert min(costs.values()) > 0


@pytest.mark.parametrize("by", ["route", "adapter", "version", "key", "day", "hour"])
async def test_each_grouping_adds_up_to_the_same_total(tiny: TinyServer, by: str) -> None:
    """T13: the total row is the sum of the rows, whatever they stand for."""
    report, expected = await usage(tiny, group_by=by), (await usage(tiny))["total"]
    total, groups = report["total"], report["groups"]
    assert (total["requests"], total["outcomes"], total["tokens"]) == (
        expected["requests"],
        expected["outcomes"],
        expected["tokens"],
    )
    assert sum(group["requests"] for group in groups) == total["requests"]
    for mode in ("price_list", "gpu_hour"):
        costs = [group["cost"][mode]["nanodollars"] for group in groups]
        assert sum(costs) == total["cost"][mode]["nanodollars"] == expected["cost"][mode]["nanodollars"]
    assert report["engine"]["requests_usd"] == pytest.approx(total["cost"]["gpu_hour"]["usd"])


async def test_the_command_prints_the_numbers_of_the_api(tiny: TinyServer) -> None:
    """T13: `loramux usage` as table, JSON and CSV."""
    report = await usage(tiny)
    assert json.loads(await printed(tiny, "usage", "--json"))["groups"] == report["groups"]
    rows = list(csv.DictReader(io.StringIO(await printed(tiny, "usage", "--csv"))))
    assert [int(row["requests"]) for row in rows] == [group["requests"] for group in report["groups"]]
    table = [line.split() for line in (await printed(tiny, "usage")).splitlines()]
    for group in report["groups"]:
        name = group["label"]["adapter"] or group["label"]["route"]
        [line] = [words for words in table if words and words[0] == name]
        tokens = [group["tokens"][kind] for kind in ("input", "cached", "output")]
        assert line[1:6] == [
            str(number) for number in (group["requests"], group["requests"] - group["outcomes"].get("ok", 0), *tokens)
        ]
    [total] = [words for words in table if words and words[0] == "total"]
    assert total[:4] == ["total", "of", str(report["count"]), str(report["total"]["requests"])]


async def test_adapters_have_as_many_uses_as_requests_in_the_ledger(tiny: TinyServer) -> None:
    """T13: `adapter list` and `adapter show` are current, and count what `usage --group-by version` counts."""
    versions = await usage(tiny, group_by="version", route="adapter")
    ledger = {
        f"{group['label']['adapter']}@{group['label']['version']}": group["requests"] for group in versions["groups"]
    }
    listed = json.loads(await printed(tiny, "adapter", "list", "--json"))["data"]
    assert {version["id"]: version["uses"] for adapter in listed for version in adapter["versions"]} == ledger
    assert sum(ledger.values()) == sum((await usage(tiny, route="adapter"))["total"]["outcomes"].values())
    for name in ("tone", "order/json"):
        shown = json.loads(await printed(tiny, "adapter", "show", name, "--json"))
        assert {version["id"]: version["uses"] for version in shown["versions"]}.items() <= ledger.items()
    for version, requests in ledger.items():
        assert json.loads(await printed(tiny, "adapter", "show", version, "--json"))["uses"] == requests
        [line] = [line for line in (await printed(tiny, "adapter", "list")).splitlines() if version in line]
        assert str(requests) in line.split()


async def test_the_dashboards_data_is_that_of_the_api(tiny: TinyServer) -> None:
    """T13: the table, the tiles and the charts of the page add up to the same numbers."""
    since = time.time() - 24 * 3600
    report = await usage(tiny, group_by="adapter", since=since, limit=10_000)
    assert report["groups"] == (await usage(tiny))["groups"]
    charts = [
        await usage(tiny, group_by="hour", since=since, limit=10_000, route=route) for route in ("base", "adapter")
    ]
    served = [group for group in report["groups"] if group["label"]["route"] != "none"]
    for figure in ("requests", "cold"):
        assert sum(hour[figure] for chart in charts for hour in chart["groups"]) == sum(each[figure] for each in served)
    assert report["prices_set"] == {"price_list": True, "gpu_hour": True}
    assert set((await series(tiny, "loramux_requests_in_flight", "route")).values()) == {0}
    residents = (await tiny.http.get("/admin/residency")).json()["resident"]
    assert [resident["leases"] for resident in residents] == [0] * len(residents)


async def test_a_stopped_jobs_cost_is_the_ledgers_and_not_that_of_present_prices(tiny: TinyServer) -> None:
    """T13: /v1/fine_tuning/jobs and the training of /admin/usage agree, also after a change of prices."""
    database = db.create_engine(tiny.settings.database_url)
    then = Prices.model_validate({"training_tokens": 7, "gpu_hour": 3600})
    jobs = [evaluated_job(database, "tone", time.time()), evaluated_job(database, "tone", time.time())]
    TrainingCosts(database, FixedPrices(then)).record(jobs[0], "tone", tokens=1_000_000, seconds=2.0)
    TrainingCosts(database, FixedPrices(Prices())).record(jobs[1], "tone", tokens=1_000_000, seconds=2.0)
    listed = {job["id"]: job for job in (await tiny.http.get("/v1/fine_tuning/jobs")).json()["data"]}
    for job, cost in zip(
        jobs, ({"price_list": 7.0, "gpu_hour": 2.0}, {"price_list": None, "gpu_hour": None}), strict=True
    ):
        retrieved = (await tiny.http.get(f"/v1/fine_tuning/jobs/{job}")).json()
        assert listed[job]["loramux"]["cost"] == retrieved["loramux"]["cost"] == cost
    training = (await usage(tiny))["training"]
    assert (training["price_list_usd"], training["gpu_hour_usd"]) == (7.0, 2.0)
    assert training["unpriced_jobs"] == {"price_list": 1, "gpu_hour": 1}
    line = "fine-tuning, all adapters: 2 jobs, by price $7 (1 unpriced), by GPU $2 (1 unpriced)"
    assert line in await printed(tiny, "usage")
