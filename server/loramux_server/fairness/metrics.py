"""The Prometheus metrics of fair admission."""

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from loramux_server.fairness.priority import Priority

_WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


class AdmissionMetrics:
    """Counts the runs that wait for the engine and the requests that a full queue refused; labels name no user."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, namespace="loramux", registry=registry)

        self._waiting = gauge("admission_waiting_runs", "Runs that wait for the engine.")
        self._tokens = gauge("admission_waiting_tokens", "Estimated work of the waiting runs, in tokens.")
        self._wait = Histogram(
            "admission_wait_seconds",
            "Time in the queue before the engine.",
            ["priority"],
            namespace="loramux",
            registry=registry,
            buckets=_WAITS,
        )
        self._refused = Counter(
            "admission_refused_total",
            "Requests refused because the queue was full.",
            ["priority"],
            namespace="loramux",
            registry=registry,
        )
        for priority in Priority:
            self._refused.labels(priority)

    def watch(self, waiting: Callable[[], float], tokens: Callable[[], float]) -> None:
        """Call these at each scrape."""
        self._waiting.set_function(waiting)
        self._tokens.set_function(tokens)

    def observe_wait(self, priority: Priority, seconds: float) -> None:
        """Count a run that was handed to the engine."""
        self._wait.labels(priority).observe(seconds)

    def count_refused(self, priority: Priority) -> None:
        """Count a request that was refused."""
        self._refused.labels(priority).inc()
