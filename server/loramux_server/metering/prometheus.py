"""The Prometheus metrics of requests, the ledger, the adapter pool and the engine."""

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from loramux_adapters.models import Tier, VersionId
from loramux_server.metering.cost_allocation import NANODOLLARS, EngineTime
from loramux_server.metering.usage_record import Charge, Route, RunStats, UsageRecord

OTHER_ADAPTERS = "_other"
"""The label of adapters without series of their own; no adapter name starts with `_`."""
MAX_ADAPTERS = 200

# vLLM's buckets start at 0.3 s, which is longer than a small model takes for an answer.
_DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 20, 30, 60, 120, 240, 480)
_TIME_TO_FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
_TIME_PER_OUTPUT_TOKEN = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)


class AdapterLabels:
    """Limits the values of the `adapter` label to the first MAX_ADAPTERS names.

    Names are never evicted: a series that disappeared and returned would look like a counter reset to `rate()`.
    """

    def __init__(self) -> None:
        self._admitted: set[str] = set()

    def label(self, adapter: str | None) -> str:
        """Return the label value of `adapter`: its name, `_other`, or empty for the base (None)."""
        if adapter is None:
            return ""
        if len(self._admitted) < MAX_ADAPTERS:
            self._admitted.add(adapter)
        return adapter if adapter in self._admitted else OTHER_ADAPTERS


class PrometheusMetrics:
    """Counts requests (as a Meter and a ChargeSink), ledger writes and the events of the adapter pool (as observers).

    Each histogram has many series, so only pinned adapters have their own; the others share `_other`.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, is_pinned: Callable[[str], bool] = lambda _adapter: False
    ) -> None:
        self._labels, self._is_pinned = AdapterLabels(), is_pinned

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="loramux", registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="loramux", registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace="loramux", registry=registry, buckets=buckets)

        route = ("route", "adapter")
        self._requests = counter(
            "requests_total",
            "Ended requests by outcome; route is none if no model was found.",
            *route,
            "operation",
            "outcome",
        )
        self._in_flight = gauge("requests_in_flight", "Requests that run or wait for their adapter.", "route")
        self._time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            _TIME_TO_FIRST_TOKEN,
            *route,
        )
        self._time_per_output_token = histogram(
            "time_per_output_token_seconds",
            "(last token - first token) / (output tokens - 1).",
            _TIME_PER_OUTPUT_TOKEN,
            *route,
        )
        self._duration = histogram(
            "request_duration_seconds", "From the request's arrival to its response's end.", _DURATIONS, *route
        )
        self._queue = histogram("queue_seconds", "Time in the engine's queue.", _DURATIONS, *route)
        self._tokens = counter("tokens_total", "Tokens; input includes the cached ones.", *route, "type")
        self._cost = counter("cost_usd_total", "Cost of requests, by the price list or by GPU time.", *route, "mode")
        self._unpriced = counter(
            "unpriced_requests_total", "Requests whose cost is unknown, because no price was set.", *route, "mode"
        )
        self._idle_cost = counter("idle_cost_usd_total", "Cost of the time in which the engine was idle.")
        self._records_waiting = gauge("usage_records_waiting", "Usage records not yet written to the database.")
        self._records_dropped = counter("usage_records_dropped_total", "Usage records that were not stored.")
        self._loads = counter("adapter_loads_total", "Loads of an adapter version into the engine.", "result", "source")
        self._load_seconds = histogram("adapter_load_seconds", "Duration of successful loads.", _DURATIONS)
        self._evictions = counter(
            "adapter_evictions_total", "Adapter versions evicted from the engine.", "tier", "reason"
        )
        self._resident = gauge("adapters_resident", "Adapter versions resident or loading in the engine.", "tier")
        self._cold = counter("adapter_cold_requests_total", "Requests whose adapter was not yet in the engine.")
        self._quarantines = counter("adapter_quarantines_total", "Adapter versions that were quarantined.")
        self._engine_up = gauge("engine_up", "1 while the engine runs, else 0.")
        self._engine_asleep = gauge("engine_asleep", "1 while a job has the engine's memory or waits for it, else 0.")
        self._initialize_series()

    def _initialize_series(self) -> None:
        """Start the series of alerts at 0: `increase()` misses the first step of a series that starts at 1."""
        for result in ("ok", "failed"):
            self._loads.labels(result, "store")
        for reason in ("capacity", "removed"):
            self._evictions.labels(Tier.HOST, reason)

    def watch_engine(self, is_engine_up: Callable[[], bool]) -> None:
        """Call `is_engine_up` at each scrape."""
        self._engine_up.set_function(is_engine_up)

    def watch_sleep(self, is_asleep: Callable[[], bool]) -> None:
        """Call `is_asleep` at each scrape."""
        self._engine_asleep.set_function(is_asleep)

    def begin(self, route: Route) -> None:
        """Count a request that started to run."""
        self._in_flight.labels(route.kind).inc()

    def record(self, record: UsageRecord) -> None:
        """Count an ended request."""
        if record.route is None:
            self._requests.labels("none", "", record.operation, record.outcome).inc()
            return
        kind, adapter = record.route.kind, self._labels.label(record.route.adapter)
        self._in_flight.labels(kind).dec()
        self._requests.labels(kind, adapter, record.operation, record.outcome).inc()
        self._cold.inc(record.stats.cold)
        for type_, count in _token_counts(record.stats).items():
            self._tokens.labels(kind, adapter, type_).inc(count)
        shared = adapter if not adapter or self._is_pinned(adapter) else OTHER_ADAPTERS
        for histogram, seconds in self._timings(record):
            if seconds is not None:
                histogram.labels(kind, shared).observe(seconds)

    def _timings(self, record: UsageRecord) -> tuple[tuple[Histogram, float | None], ...]:
        stats = record.stats
        return (
            (self._duration, record.duration),
            (self._time_to_first_token, stats.first_token),
            (self._time_per_output_token, stats.time_per_output_token),
            # The engine reports no queue time for a run without a token.
            (self._queue, None if stats.first_token is None else stats.queue),
        )

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Add the cost of a request."""
        if record.route is None:
            return
        route = (record.route.kind, self._labels.label(record.route.adapter))
        for mode, cost in (("price_list", charge.price_list), ("gpu_hour", charge.gpu_hour)):
            if cost is None:
                self._unpriced.labels(*route, mode).inc()
            else:
                self._cost.labels(*route, mode).inc(cost / NANODOLLARS)

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Add the cost of idle time."""
        self._idle_cost.inc(engine_time.idle_nanodollars / NANODOLLARS)

    def ledger_flushed(self, *, waiting: int, dropped: int) -> None:
        """Show the number of waiting usage records, and count the dropped ones."""
        self._records_waiting.set(waiting)
        self._records_dropped.inc(dropped)

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:  # noqa: ARG002 - any version may be loaded
        """Count an ended load."""
        self._loads.labels("ok" if ok else "failed", "store").inc()
        if ok:
            self._load_seconds.observe(seconds)

    def evicted(self, version: VersionId, reason: str) -> None:  # noqa: ARG002 - as above
        """Count a version evicted from the engine's host memory."""
        self._evictions.labels(Tier.HOST, reason).inc()

    def resident(self, count: int) -> None:
        """Show the number of versions in the engine's host memory."""
        self._resident.labels(Tier.HOST).set(count)

    def quarantined(self, version: VersionId, reason: str) -> None:  # noqa: ARG002 - as above
        """Count a quarantined version."""
        self._quarantines.inc()


def _token_counts(stats: RunStats) -> dict[str, int]:
    return {"input": stats.input_tokens, "cached": stats.cached_tokens, "output": stats.output_tokens}
