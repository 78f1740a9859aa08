"""Every Prometheus collector of loramux, in one table, and what moves each."""

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from loramux_adapters.models import Tier, VersionId
from loramux_server.metering.cost_allocation import NANODOLLARS, EngineTime
from loramux_server.metering.usage_record import Charge, Route, RunFacts, UsageRecord

OTHER = "_other"
"""Stands for the adapters that have no series of their own; no adapter's name begins like this."""
MAX_ADAPTERS = 200

# vLLM's own begin at 0.3 s, within which a small model has answered.
_DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 20, 30, 60, 120, 240, 480)
_FIRST_TOKENS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_TOKEN_GAPS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)


class AdapterLabels:
    """Bounds the values of the `adapter` label: the first MAX_ADAPTERS names are admitted, for good.

    Admission and no eviction: a series that vanished and came back would look like a reset to `rate()`.
    """

    def __init__(self) -> None:
        self._admitted: set[str] = set()

    def label(self, adapter: str | None) -> str:
        """Return the label's value: the name, `_other`, or nothing for the base."""
        if adapter is None:
            return ""
        if len(self._admitted) < MAX_ADAPTERS:
            self._admitted.add(adapter)
        return adapter if adapter in self._admitted else OTHER


class Metrics:
    """Counts requests (as their Meter) and what the adapter pool does (as its observer).

    Histograms have many series each, so only pinned adapters have their own; the others share `_other`.
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
            "Requests by how they ended; route is none if no model was found.",
            *route,
            "operation",
            "outcome",
        )
        self._in_flight = gauge("requests_in_flight", "Requests that run or wait for their adapter.", "route")
        self._first_token = histogram(
            "time_to_first_token_seconds", "From the request's arrival to its first token.", _FIRST_TOKENS, *route
        )
        self._token_gap = histogram(
            "time_per_output_token_seconds", "(last token - first token) / (output tokens - 1).", _TOKEN_GAPS, *route
        )
        self._duration = histogram(
            "request_duration_seconds", "From the request's arrival to its response's end.", _DURATIONS, *route
        )
        self._queue = histogram("queue_seconds", "Waiting in the engine to be scheduled.", _DURATIONS, *route)
        self._tokens = counter("tokens_total", "Tokens; input includes the cached ones.", *route, "type")
        self._cost = counter(
            "cost_usd_total", "What requests cost, by the price list or by the engine's time.", *route, "mode"
        )
        self._idle_cost = counter("idle_cost_usd_total", "What the engine's time cost in which nobody was in it.")
        self._records_waiting = gauge("usage_records_waiting", "Usage records that are not in the database yet.")
        self._records_dropped = counter("usage_records_dropped_total", "Usage records that no database would take.")
        self._loads = counter("adapter_loads_total", "Loads of an adapter into the engine.", "result", "source")
        self._load_seconds = histogram("adapter_load_seconds", "How long a load took.", _DURATIONS)
        self._evictions = counter("adapter_evictions_total", "Adapters that left the engine.", "tier", "reason")
        self._resident = gauge("adapters_resident", "Adapter versions in the engine.", "tier")
        self._cold = counter("adapter_cold_requests_total", "Requests that found their adapter not yet in the engine.")
        self._quarantines = counter("adapter_quarantines_total", "Versions that were taken out of service.")
        self._engine_up = gauge("engine_up", "1 while the engine answers, else 0.")
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Begin at 0 what alerts look at: `increase()` doesn't see the step of a series that begins at 1."""
        for result in ("ok", "failed"):
            self._loads.labels(result, "store")
        for reason in ("capacity", "removed"):
            self._evictions.labels(Tier.HOST, reason)

    def watch(self, is_engine_up: Callable[[], bool]) -> None:
        """Ask the engine at each scrape whether it is up."""
        self._engine_up.set_function(is_engine_up)

    def begin(self, route: Route) -> None:
        """Count a request that has begun to run."""
        self._in_flight.labels(route.kind).inc()

    def record(self, record: UsageRecord) -> None:
        """Count a request that is over."""
        if record.route is None:
            self._requests.labels("none", "", record.operation, record.outcome).inc()
            return
        kind, adapter = record.route.kind, self._labels.label(record.route.adapter)
        self._in_flight.labels(kind).dec()
        self._requests.labels(kind, adapter, record.operation, record.outcome).inc()
        self._cold.inc(record.facts.cold)
        for type_, count in _token_counts(record.facts).items():
            self._tokens.labels(kind, adapter, type_).inc(count)
        shared = adapter if not adapter or self._is_pinned(adapter) else OTHER
        for histogram, seconds in self._timings(record):
            if seconds is not None:
                histogram.labels(kind, shared).observe(seconds)

    def _timings(self, record: UsageRecord) -> tuple[tuple[Histogram, float | None], ...]:
        facts = record.facts
        return (
            (self._duration, record.duration),
            (self._first_token, facts.first_token),
            (self._token_gap, facts.time_per_output_token),
            # A run without a token never left the queue, as far as the engine tells.
            (self._queue, None if facts.first_token is None else facts.queue),
        )

    def charged(self, record: UsageRecord, charge: Charge) -> None:
        """Add up what a request cost."""
        if record.route is None:
            return
        route = (record.route.kind, self._labels.label(record.route.adapter))
        self._cost.labels(*route, "price_list").inc(charge.price_list / NANODOLLARS)
        self._cost.labels(*route, "gpu_hour").inc(charge.gpu_hour / NANODOLLARS)

    def passed(self, engine_time: EngineTime) -> None:
        """Add up what idle time cost."""
        self._idle_cost.inc(engine_time.idle_nanodollars / NANODOLLARS)

    def ledger(self, *, waiting: int, dropped: int) -> None:
        """Show how many usage records wait, and count those that were dropped."""
        self._records_waiting.set(waiting)
        self._records_dropped.inc(dropped)

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:  # noqa: ARG002 - any version may be loaded
        """Count a load that ended."""
        self._loads.labels("ok" if ok else "failed", "store").inc()
        if ok:
            self._load_seconds.observe(seconds)

    def evicted(self, version: VersionId, reason: str) -> None:  # noqa: ARG002 - as above
        """Count a version that left the engine's host memory."""
        self._evictions.labels(Tier.HOST, reason).inc()

    def resident(self, count: int) -> None:
        """Show how many versions are in the engine's host memory."""
        self._resident.labels(Tier.HOST).set(count)

    def quarantined(self, version: VersionId, reason: str) -> None:  # noqa: ARG002 - as above
        """Count a version that was taken out of service."""
        self._quarantines.inc()


def _token_counts(facts: RunFacts) -> dict[str, int]:
    return {"input": facts.input_tokens, "cached": facts.cached_tokens, "output": facts.output_tokens}
