"""Prometheus metrics of fine-tuning jobs, and their costs in the ledger."""

from threading import Lock

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord
from loramux_server.metering.ledger.training_costs import TrainingCosts

_NAME = "loramux_fine_tuning"


class JobMetrics:
    """A JobObserver for the supervisor. One job runs at a time, so there is no label for the job."""

    def __init__(self, training_costs: TrainingCosts, registry: CollectorRegistry = REGISTRY) -> None:
        self._training_costs = training_costs
        self._ended = Counter(f"{_NAME}_jobs_total", "Ended jobs by outcome.", ["outcome"], registry=registry)
        self._waiting = Gauge(f"{_NAME}_jobs_waiting", "Jobs that wait for the trainer.", registry=registry)
        self._tokens = Counter(f"{_NAME}_tokens_total", "Tokens trained on.", registry=registry)
        self._seconds = Counter(f"{_NAME}_seconds_total", "Time spent in training.", registry=registry)
        self._running = Gauge(f"{_NAME}_jobs_running", "1 while a job is running, else 0.", registry=registry)
        self._progress = Gauge(f"{_NAME}_progress_ratio", "Progress of the running job, 0 to 1.", registry=registry)
        self._seconds_left = Gauge(
            f"{_NAME}_left_seconds", "Estimated time until the end of the running job.", registry=registry
        )
        self._loss = Gauge(f"{_NAME}_loss", "Training loss of the last step, in nats per token.", registry=registry)
        self._webhooks = Counter(
            "loramux_webhook_attempts_total", "Attempts to deliver a webhook's message.", ["outcome"], registry=registry
        )
        self._last_progress = JobProgress()
        self._counted: set[str] = set()
        self._lock = Lock()
        for outcome in ("succeeded", "failed", "cancelled"):
            self._ended.labels(outcome)  # starts at 0, so that alerts see the first one
        for outcome in ("delivered", "failed", "given_up"):
            self._webhooks.labels(outcome)

    def queue_changed(self, count: int) -> None:
        """Show the number of waiting jobs."""
        self._waiting.set(count)

    def started(self, job: JobRecord) -> None:
        """Show that a job is running; count from its progress so far."""
        self._last_progress = job.progress
        self._running.set(1)

    def progressed(self, progress: JobProgress) -> None:
        """Count the progress since the last call."""
        self._tokens.inc(max(0, progress.tokens - self._last_progress.tokens))
        self._seconds.inc(max(0.0, progress.seconds - self._last_progress.seconds))
        self._last_progress = progress
        self._progress.set(progress.share or 0)
        self._seconds_left.set(progress.seconds_left or 0)
        self._loss.set(progress.loss or 0)

    def stopped(self, job: JobRecord) -> None:
        """Count a job that ended, and record the cost of one that ended or paused. Called in a thread.

        Raises:
            StoreError: the cost can't be written to the database.
        """
        for gauge in (self._running, self._progress, self._seconds_left):
            gauge.set(0)
        if job.state.has_ended:
            self._count_end(job)
        if job.progress.tokens:
            self._training_costs.record(job.id, job.name, job.progress.tokens, job.progress.seconds)

    def cancelled(self, job: JobRecord) -> None:
        """Count a cancelled job; if it was running, `stopped` follows."""
        self._count_end(job)

    def webhook_attempted(self, outcome: str) -> None:
        """Count an attempt to deliver a webhook's message."""
        self._webhooks.labels(outcome).inc()

    def _count_end(self, job: JobRecord) -> None:
        """Count the end of a job once, though `cancelled` and `stopped` may both report it."""
        with self._lock:
            if job.id in self._counted:
                return
            self._counted.add(job.id)
        self._ended.labels(job.state.value).inc()
