"""A real Prometheus scrapes a server under load: every dashboard query and every rule has data."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers import prometheus_server as prometheus
from tests.helpers.deploy_files import PROMETHEUS as FOLDER
from tests.helpers.deploy_files import panel_queries, rules
from tests.helpers.promql import PROMETHEUS, UnknownNameError, exposed, labels_of
from tests.helpers.tiny_server import TinyServer
from tests.helpers.traffic import KEY, busy_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED_NAMES = 100
MAY_BE_ZERO = {
    "Requests in flight",  # requests are short
    "Cached share of input",  # the fake engine has no cache
    "Waiting usage records",
    "Dropped usage records",
    "Waiting jobs",  # the server's own supervisor resets it
}
"""Panels that are zero, or not always above zero, under the load of these tests."""


@dataclass
class Monitored:
    """A server under load, and the Prometheus that scrapes it."""

    tiny: TinyServer
    prometheus: prometheus.Prometheus

    async def page(self) -> str:
        """Return the metrics page of the server."""
        return await metrics_page(self.tiny)


async def metrics_page(tiny: TinyServer) -> str:
    return (await tiny.http.get("/metrics", headers={"authorization": f"Bearer {KEY}"})).text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def busy(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with busy_server(tmp_path_factory.mktemp("busy"), tiny_base) as tiny:
        yield tiny


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(busy: TinyServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Monitored]:
    prometheus.installed()
    folder = tmp_path_factory.mktemp("prometheus")
    config = prometheus.configuration(folder, busy.url.removeprefix("http://"), KEY)
    async with prometheus.running(folder, config) as running:
        await running.until("loramux_adapter_quarantines_total > 1")
        yield Monitored(busy, running)


async def known_series(tiny: TinyServer) -> dict[str, frozenset[str]]:
    """Return the series of a live server, of Prometheus itself and of the recording rules."""
    series = {**exposed(await metrics_page(tiny)), **PROMETHEUS}
    for rule in rules("recording"):
        series[rule["record"]] = labels_of(rule["expr"], series)
    return series


@pytest.mark.slow
async def test_every_panel_uses_only_metrics_and_labels_of_a_server(busy: TinyServer) -> None:
    series = exposed(await metrics_page(busy))
    for query in panel_queries():
        assert query.labels <= labels_of(query.expr, series), query.where


async def test_every_rule_uses_only_existing_metrics_and_labels(busy: TinyServer) -> None:
    series = await known_series(busy)
    for rule in rules("alerts"):
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert shown <= labels_of(rule["expr"], series), rule["alert"]


async def test_an_unknown_name_is_found_in_every_position(busy: TinyServer) -> None:
    series = exposed(await metrics_page(busy))
    for wrong in (
        "loramux_request_total",
        'sum(rate(loramux_requests_total{model="a"}[5m]))',
        "sum by (modell) (loramux_requests_in_flight)",
        "sum by (adapter) (sum by (route) (loramux_requests_total))",
        "histogram_quantile(0.5, sum by (route) (rate(loramux_queue_seconds_bucket[5m])))",
        "loramux_requests_in_flight / on (adapter) loramux_requests_in_flight",
        "1 + 2 * (loramux_requests_in_flite)",
    ):
        with pytest.raises(UnknownNameError):
            labels_of(wrong, series)
    for broken in ("sum by route (loramux_requests_in_flight)", "rate(loramux_requests_total)", "a / "):
        with pytest.raises(ValueError, match=r".+"):
            labels_of(broken, series)


@pytest.mark.slow
async def test_unknown_model_names_never_become_labels(busy: TinyServer) -> None:
    for number in range(REFUSED_NAMES):
        answer = await busy.http.post(
            "/v1/completions",
            json={"model": f"wrong-name-{number}", "prompt": "hello"},
            headers={"authorization": f"Bearer {KEY}"},
        )
        assert answer.status_code == 404
    assert "wrong-name" not in await metrics_page(busy)


@pytest.mark.slow
async def test_every_query_of_every_panel_returns_data(watched: Monitored) -> None:
    for query in panel_queries():
        enough = bool if query.panel in MAY_BE_ZERO else moves
        series = await watched.prometheus.until(query.expr, enough)
        assert enough(series), query.where
        assert all(query.labels <= labels_shown(one) for one in series), query.where


def moves(series: list[dict[str, Any]]) -> bool:
    """Return whether any value is above zero."""
    return any(float(one["value"][1]) > 0 for one in series)


def labels_shown(series: dict[str, Any]) -> set[str]:
    # Prometheus drops labels with empty values, such as the base's adapter.
    return {*series["metric"], "adapter"}


@pytest.mark.slow
async def test_base_and_adapters_have_separate_series(watched: Monitored) -> None:
    for query in panel_queries():
        if "{{route}}" in query.legend and "refused" not in query.expr:
            series = await watched.prometheus.until(query.expr, lambda found: len(found) > 1)
            assert {"base", "adapter"} <= {one["metric"]["route"] for one in series}, query.where


@pytest.mark.slow
async def test_every_recorded_rule_has_data(watched: Monitored) -> None:
    for rule in rules("recording"):
        assert await watched.prometheus.until(rule["record"]), rule["record"]


@pytest.mark.slow
async def test_all_rules_are_evaluated_and_alerts_with_a_cause_fire(watched: Monitored) -> None:
    caused = {
        "LoramuxAdapterQuarantined": "firing",
        "LoramuxAdapterLoadsFail": "firing",
        "LoramuxDailyBudgetSpent": "firing",
        "LoramuxErrorRate": "pending",  # it fires after five minutes
    }
    alerts = await watched.prometheus.until("ALERTS", lambda series: states(series) == caused, wait=60)
    assert states(alerts) == caused
    found = await watched.prometheus.rules()
    assert {rule.get("alert") or rule["record"] for name in ("recording", "alerts") for rule in rules(name)} == {*found}
    assert {name: rule.get("lastError", "") for name, rule in found.items() if rule["health"] != "ok"} == {}


def states(alerts: list[dict[str, Any]]) -> dict[str, str]:
    """Return the state of each pending or firing alert."""
    return {one["metric"]["alertname"]: one["metric"]["alertstate"] for one in alerts}


@pytest.mark.slow
async def test_promtool_passes_the_configuration_and_the_rules() -> None:
    prometheus.promtool("check", "config", FOLDER / "prometheus.yml")
    prometheus.promtool("check", "rules", FOLDER / "rules" / "recording.yml", FOLDER / "rules" / "alerts.yml")
    prometheus.promtool("test", "rules", FOLDER / "rules" / "tests.yml")
