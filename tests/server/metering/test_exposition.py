"""The metrics that are exposed."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import choose_encoder

from loramux_server.metering.exposition import LORA_INFO, Exposition


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def lora_info(registry: CollectorRegistry) -> Gauge:
    """The gauge as vLLM makes it."""
    labels = ("max_lora", "waiting_lora_adapters", "running_lora_adapters")
    return Gauge(LORA_INFO, "Running stats on lora requests.", labels, registry=registry)


def shown(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(Exposition(registry)).decode().splitlines() if not line.startswith("#")]


def test_only_the_newest_combination_of_adapters_is_shown(registry: CollectorRegistry) -> None:
    gauge = lora_info(registry)
    for moment, names in ((10.0, "a"), (30.0, "a,b"), (20.0, "b")):
        gauge.labels(4, "", names).set(moment)
    [line] = shown(registry)
    assert line.startswith(LORA_INFO + "{")
    assert 'running_lora_adapters="a,b"' in line


def test_a_gauge_without_series_stays_empty(registry: CollectorRegistry) -> None:
    lora_info(registry)
    assert shown(registry) == []


def test_all_other_metrics_are_unchanged(registry: CollectorRegistry) -> None:
    Counter("seen", "Seen.", ["by"], registry=registry).labels("a").inc()
    for accepted in ("text/plain", "application/openmetrics-text"):
        encode, _ = choose_encoder(accepted)
        assert encode(Exposition(registry)) == encode(registry)
