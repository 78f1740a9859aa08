"""/admin/prices and `loramux prices`: prices change at run time, and have a history."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from loramux_server.metering.ledger.calibrations import Calibration
from tests.helpers.tiny_server import TinyServer, tiny_server

IN_SETTINGS = {"base": {"input": 1, "output": 2}, "gpu_hour": 3600}
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, prices=IN_SETTINGS) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(shared: TinyServer) -> AsyncIterator[TinyServer]:
    """The shared server, with the prices of its settings."""
    yield shared
    await shared.http.delete("/admin/prices")


async def put(tiny: TinyServer, prices: Any, **more: Any) -> httpx.Response:
    return await tiny.http.put("/admin/prices", json={"prices": prices, **more})


async def cost(tiny: TinyServer, name: str) -> dict[str, Any]:
    """Ask a new adapter for 20 tokens, and return what the request cost."""
    await tiny.add(name)
    await tiny.chat(name)
    async with asyncio.timeout(10):
        while True:
            report = (await tiny.http.get("/admin/usage", params={"adapter": name})).json()
            if report["total"]:
                found: dict[str, Any] = report["total"]
                return found
            await asyncio.sleep(0.01)


async def command(tiny: TinyServer, *arguments: str) -> Any:
    runner = CliRunner(env={"COLUMNS": "200"})
    return await asyncio.to_thread(runner.invoke, app, ["prices", *arguments, "--url", tiny.url])


async def test_requests_are_charged_at_new_prices_from_then_on(tiny: TinyServer) -> None:
    before = await cost(tiny, "before")
    assert (await put(tiny, {"base": {"input": 10, "output": 20}})).status_code == 200
    after = await cost(tiny, "after")
    assert after["cost"]["price_list"]["nanodollars"] == 10 * before["cost"]["price_list"]["nanodollars"]
    assert before["cost"]["gpu_hour"]["nanodollars"] > 0


async def test_the_response_says_what_is_set_since_when_and_by_whom(tiny: TinyServer) -> None:
    shown = (await put(tiny, {"gpu_hour": 0})).json()
    assert (shown["origin"], shown["prices"], shown["by"]) == ("set", {"gpu_hour": "0"}, "anonymous")
    assert shown == (await tiny.http.get("/admin/prices")).json()
    again = (await tiny.http.delete("/admin/prices")).json()
    assert (again["origin"], again["prices"]["gpu_hour"]) == ("reset", "3600")
    changes = (await tiny.http.get("/admin/prices/history", params={"limit": 2})).json()["changes"]
    assert [change["version"] for change in changes] == [again["version"], shown["version"]]


async def test_a_change_of_prices_that_were_changed_meanwhile_is_refused(tiny: TinyServer) -> None:
    version = (await tiny.http.get("/admin/prices")).json()["version"]
    assert (await put(tiny, {"gpu_hour": 1}, replaces=version)).status_code == 200
    refused = await put(tiny, {"gpu_hour": 2}, replaces=version)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "prices_changed")
    assert (await tiny.http.get("/admin/prices")).json()["prices"] == {"gpu_hour": "1"}


@pytest.mark.parametrize(
    ("prices", "field"),
    [
        ({"gpu_hour": -1}, "prices.gpu_hour"),
        ({"gpu_hour": "NaN"}, "prices.gpu_hour"),
        ({"gpu_hour": 10**9}, "prices.gpu_hour"),
        ({"gpu_hour": [1]}, "prices.gpu_hour"),
        ({"gpu_day": 1}, "prices.gpu_day"),
        ({"decode_weight": 0}, "prices.decode_weight"),
        ({"base": {"input": "1; DROP TABLE price_lists"}}, "prices.base.input"),
        ({"adapters": {"\u202e\x00 <b>": {"multiplier": "x"}}}, "prices.adapters.\u202e\x00 <b>.multiplier"),
        ({"adapters": {"a" * 2_000_000: {}}}, "prices"),
        ([], "prices"),
        ("gpu_hour", "prices"),
        (None, "prices"),
    ],
)
async def test_hostile_prices_are_refused_and_change_nothing(tiny: TinyServer, prices: object, field: str) -> None:
    before = (await tiny.http.get("/admin/prices")).json()
    refused = await put(tiny, prices)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field[:200])
    assert len(error["message"]) < 3000
    assert (await tiny.http.get("/admin/prices")).json() == before


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"prices": {"gpu_hour": NaN}}', b"{", b'{"prices": {}, "more": 1}', b"\xff"]
)
async def test_a_hostile_body_is_refused(tiny: TinyServer, body: bytes) -> None:
    refused = await tiny.http.put("/admin/prices", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400


async def test_only_an_admin_may_see_and_change_prices(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base, keys=("secret",)) as server:
        for method in ("GET", "PUT", "DELETE"):
            assert (await server.http.request(method, "/admin/prices")).status_code == 401


async def test_the_weights_are_shown_with_their_origin(tiny: TinyServer) -> None:
    assert (await tiny.http.get("/admin/prices")).json()["weights"]["origin"] == "default"
    measured = Calibration(0.0, prefill_seconds=0.001, decode_seconds=0.007, lowest=6.5, highest=7.5)
    await asyncio.to_thread(tiny.server.usage_recorder.prices.calibrate, measured)
    weights = (await tiny.http.get("/admin/prices")).json()["weights"]
    assert (weights["origin"], weights["decode"], weights["measured_at"]) == ("measured", 7.0, "1970-01-01T00:00:00Z")
    assert "7 input tokens (measured at 1970-01-01T00:00:00Z" in (await command(tiny, "show")).stdout
    weights = (await put(tiny, {"decode_weight": 3})).json()["weights"]
    assert (weights["origin"], weights["decode"]) == ("prices", 3.0)


async def test_the_command_sets_unsets_and_resets_prices(tiny: TinyServer) -> None:
    names = [
        "gpu_hour=2.5",
        "base.cached=0.5",
        "base.output=",
        "adapters.ft:a.b:1.tokens.input=3",
        "adapters.x.multiplier=2",
    ]
    result = await command(tiny, "set", *names, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prices"] == {
        "base": {"input": "1", "cached": "0.5"},
        "gpu_hour": "2.5",
        "adapters": {"ft:a.b:1": {"tokens": {"input": "3"}}, "x": {"multiplier": "2"}},
    }
    shown = (await command(tiny, "show")).stdout
    assert "adapters.ft:a.b:1.tokens.input" in shown
    assert "set by anonymous" in shown
    assert (await command(tiny, "reset")).exit_code == 0
    listed = (await command(tiny, "history")).stdout
    assert "reset to the settings" in listed
    assert "gpu_hour=2.5" in listed


async def test_the_command_replaces_the_whole_price_list_by_a_file(tiny: TinyServer, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    for text in ("gpu_hour: 7\n", "prices:\n  gpu_hour: 7\n"):
        file.write_text(text)
        result = await command(tiny, "set", "--file", str(file), "--json")
        assert json.loads(result.stdout)["prices"] == {"gpu_hour": "7"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to set"),
        (["gpu_hour"], "expected NAME=PRICE"),
        (["=1"], "expected NAME=PRICE"),
        (["gpu_hour.x=1"], "is not the name of a price"),
        (["gpu_hour=cheap"], "prices.gpu_hour"),
        (["colour=1"], "prices.colour"),
    ],
)
async def test_the_command_says_what_is_wrong(tiny: TinyServer, arguments: list[str], message: str) -> None:
    result = await command(tiny, "set", *arguments)
    assert result.exit_code == 1
    assert message in result.output


async def test_prices_without_any_are_called_unknown(tiny: TinyServer) -> None:
    await put(tiny, {})
    assert "costs are unknown" in (await command(tiny, "show")).stdout
    total = await cost(tiny, "unpriced")
    assert total["requests"] == 1
