"""The Prometheus metrics of experiments and feedback."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from loramux_server.experiments.models import Observation, Outcome

_VARIANTS = ("adapter", "baseline", "candidate", "current")


class ExperimentMetrics:
    """Counts requests of experiments by variant, shadow requests, and feedback."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._running = Gauge("loramux_experiments_running", "Running experiments.", registry=registry)
        self._requests = Counter(
            "loramux_experiment_requests_total",
            "Requests of experiments by the variant that they were assigned to.",
            ["variant", "outcome"],
            registry=registry,
        )
        self._shadow = Counter(
            "loramux_experiment_shadow_requests_total",
            "Requests to baselines whose answers no client gets.",
            ["outcome"],
            registry=registry,
        )
        self._feedback = Counter("loramux_feedback_total", "Accepted feedback on requests.", registry=registry)
        for variant in _VARIANTS:
            self._requests.labels(variant, Outcome.FAILED.value)  # starts at 0, so that alerts see the first one

    def running(self, count: int) -> None:
        """Show the number of running experiments."""
        self._running.set(count)

    def observed(self, row: Observation) -> None:
        """Count a recorded request."""
        self._requests.labels(row.variant, row.outcome.value).inc()

    def shadow(self, outcome: str) -> None:
        """Count a shadow request: `answered`, `failed` or `dropped`."""
        self._shadow.labels(outcome).inc()

    def feedback(self) -> None:
        """Count a feedback."""
        self._feedback.inc()
