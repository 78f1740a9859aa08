"""The Prometheus metrics of requests and of the adapter pool."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from loramux_adapters.models import VersionId
from loramux_server.metering.prometheus import MAX_ADAPTERS, AdapterLabels, PrometheusMetrics
from loramux_server.metering.usage_record import Charge, Operation, Outcome, Route, RunStats, UsageRecord

TONE = Route("tone", "3f9c2ab01d44")
TONE_LABELS = {"route": "adapter", "adapter": "tone"}
STATS = RunStats(
    input_tokens=10, cached_tokens=4, output_tokens=11, queue=0.02, first_token=1.0, last_token=3.0, cold=True
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PrometheusMetrics:
    return PrometheusMetrics(registry, is_pinned={"pinned"}.__contains__)


def record(route: Route | None, outcome: Outcome = Outcome.OK, stats: RunStats = STATS) -> UsageRecord:
    return UsageRecord(
        request_id="req_1", operation=Operation.CHAT, outcome=outcome, status=200, error=None, key_id="key_1",
        route=route, started_at=1.0, duration=4.0, stats=stats,
    )  # fmt: skip


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"loramux_{name}", labels)


def test_a_request_updates_every_metric_of_its_route(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    metrics.begin(TONE)
    metrics.record(record(TONE))
    assert value(registry, "requests_total", **TONE_LABELS, operation="chat", outcome="ok") == 1
    assert [value(registry, "tokens_total", **TONE_LABELS, type=t) for t in ("input", "cached", "output")] == [
        10,
        4,
        11,
    ]
    assert value(registry, "adapter_cold_requests_total") == 1
    shared = {"route": "adapter", "adapter": "_other"}
    assert value(registry, "time_to_first_token_seconds_sum", **shared) == 1.0
    assert value(registry, "time_per_output_token_seconds_sum", **shared) == pytest.approx(0.2)
    assert value(registry, "request_duration_seconds_sum", **shared) == 4.0
    assert value(registry, "queue_seconds_sum", **shared) == 0.02


def test_requests_in_flight_rise_and_fall_by_route(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    metrics.begin(TONE)
    metrics.begin(Route())
    metrics.begin(TONE)
    metrics.record(record(TONE))
    assert value(registry, "requests_in_flight", route="adapter") == 1
    assert value(registry, "requests_in_flight", route="base") == 1


def test_a_request_refused_before_its_route_was_known_is_only_counted(
    metrics: PrometheusMetrics, registry: CollectorRegistry
) -> None:
    metrics.record(record(None, Outcome.REFUSED))
    assert value(registry, "requests_total", route="none", adapter="", operation="chat", outcome="refused") == 1
    assert "requests_in_flight{" not in generate_latest(registry).decode()


def test_a_run_without_a_token_has_no_latency(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    metrics.begin(Route())
    metrics.record(record(Route(), Outcome.CANCELLED, RunStats(input_tokens=5)))
    assert value(registry, "tokens_total", route="base", adapter="", type="input") == 5
    assert value(registry, "request_duration_seconds_count", route="base", adapter="") == 1
    for name in ("time_to_first_token", "time_per_output_token", "queue"):
        assert value(registry, f"{name}_seconds_count", route="base", adapter="") is None


def test_only_pinned_adapters_have_histograms_of_their_own(
    metrics: PrometheusMetrics, registry: CollectorRegistry
) -> None:
    for adapter in ("pinned", "tone", None):
        metrics.begin(Route(adapter))
        metrics.record(record(Route(adapter)))
    for adapter in ("pinned", "_other"):
        assert value(registry, "queue_seconds_count", route="adapter", adapter=adapter) == 1
    assert value(registry, "queue_seconds_count", route="base", adapter="") == 1


def test_the_first_adapters_are_admitted_for_good_and_later_ones_share_a_label() -> None:
    labels = AdapterLabels()
    names = [f"adapter-{number}" for number in range(MAX_ADAPTERS)]
    assert [labels.label(name) for name in names] == names
    assert labels.label("late") == "_other"
    assert labels.label("adapter-0") == "adapter-0"
    assert labels.label(None) == ""


def test_no_request_is_lost_when_there_are_more_adapters_than_labels(
    metrics: PrometheusMetrics, registry: CollectorRegistry
) -> None:
    for number in range(MAX_ADAPTERS + 50):
        metrics.begin(Route(f"adapter-{number}"))
        metrics.record(record(Route(f"adapter-{number}")))
    (family,) = (family for family in registry.collect() if family.name == "loramux_requests")
    counts = [sample.value for sample in family.samples if sample.name == "loramux_requests_total"]
    assert (len(counts), sum(counts), max(counts)) == (MAX_ADAPTERS + 1, MAX_ADAPTERS + 50, 50)


def test_the_pools_loads_and_evictions_are_counted(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    version = VersionId.parse("tone@3f9c2ab01d44")
    metrics.loaded(version, 0.5, ok=True)
    metrics.loaded(version, 9.0, ok=False)
    metrics.evicted(version, "capacity")
    metrics.resident(3)
    assert value(registry, "adapter_loads_total", result="ok", source="store") == 1
    assert value(registry, "adapter_loads_total", result="failed", source="store") == 1
    assert value(registry, "adapter_load_seconds_sum") == 0.5
    assert value(registry, "adapter_evictions_total", tier="host", reason="capacity") == 1
    assert value(registry, "adapters_resident", tier="host") == 3


def test_a_small_models_latency_falls_between_bucket_edges_and_not_into_the_first_one(
    metrics: PrometheusMetrics, registry: CollectorRegistry
) -> None:
    metrics.begin(Route())
    metrics.record(record(Route()))
    text = generate_latest(registry).decode()
    edges = [line for line in text.splitlines() if line.startswith("loramux_request_duration_seconds_bucket")]
    assert 'le="0.01"' in edges[0]
    assert 'le="+Inf"' in edges[-1]


def test_counters_of_alerts_start_at_zero(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    assert value(registry, "adapter_quarantines_total") == 0
    assert value(registry, "usage_records_dropped_total") == 0
    assert value(registry, "adapter_loads_total", result="failed", source="store") == 0
    assert value(registry, "adapter_evictions_total", tier="host", reason="capacity") == 0


def test_each_quarantine_is_counted(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    metrics.quarantined(VersionId.parse("tone@3f9c2ab01d44"), "it computed NaN or infinite values")
    assert value(registry, "adapter_quarantines_total") == 1


def test_the_engine_is_checked_at_each_scrape(metrics: PrometheusMetrics, registry: CollectorRegistry) -> None:
    answers = [True, False]
    assert value(registry, "engine_up") == 0
    metrics.watch_engine(lambda: answers.pop(0))
    assert value(registry, "engine_up") == 1
    assert value(registry, "engine_up") == 0


@pytest.mark.slow
def test_five_thousand_adapters_and_ten_thousand_wrong_names_leave_a_bounded_number_of_series(
    registry: CollectorRegistry,
) -> None:
    metrics = PrometheusMetrics(registry, is_pinned=lambda _adapter: True)
    for number in range(5_000):
        route = Route(f"adapter-{number}")
        metrics.begin(route)
        metrics.record(record(route))
        metrics.record_charge(record(route), Charge(1, 1, "prices"))
    for _ in range(10_000):  # an unknown model name leads to a record without a route
        metrics.record(record(None, Outcome.REFUSED))
    for family in registry.collect():
        adapters = {sample.labels["adapter"] for sample in family.samples if "adapter" in sample.labels}
        assert len(adapters - {"", "_other"}) <= MAX_ADAPTERS, family.name
    [requests] = (family for family in registry.collect() if family.name == "loramux_requests")
    assert sum(sample.value for sample in requests.samples if sample.name.endswith("_total")) == 15_000
