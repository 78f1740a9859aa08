"""How fine-tuning goes, as Prometheus sees it, and what it costs, as the ledger does."""

from threading import Lock

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from loramux_adapters.finetuning.jobs.models import JobRecord, Progress
from loramux_server.metering.ledger.training_costs import TrainingBook

_NAME = "loramux_fine_tuning"


class JobMetrics:
    """Told what the supervisor of jobs does, as its observer. One job runs at a time, so no label tells jobs apart."""

    def __init__(self, book: TrainingBook, registry: CollectorRegistry = REGISTRY) -> None:
        self._book = book
        self._ended = Counter(f"{_NAME}_jobs_total", "Jobs by how they ended.", ["outcome"], registry=registry)
        self._waiting = Gauge(f"{_NAME}_jobs_waiting", "Jobs that wait for the trainer.", registry=registry)
        self._tokens = Counter(f"{_NAME}_tokens_total", "Tokens that were trained on.", registry=registry)
        self._seconds = Counter(f"{_NAME}_seconds_total", "Time spent in training.", registry=registry)
        self._running = Gauge(f"{_NAME}_jobs_running", "1 while a job is trained, else 0.", registry=registry)
        self._share = Gauge(f"{_NAME}_progress_ratio", "Done of the job that runs, 0 to 1.", registry=registry)
        self._left = Gauge(f"{_NAME}_left_seconds", "How long the job that runs may still take.", registry=registry)
        self._loss = Gauge(f"{_NAME}_loss", "Training loss of the last step, in nats a token.", registry=registry)
        self._known = Progress()
        self._counted: set[str] = set()
        self._counting = Lock()
        for outcome in ("succeeded", "failed", "cancelled"):
            self._ended.labels(outcome)  # begins at 0, so that alerts see the first one

    def waiting(self, count: int) -> None:
        """So many jobs wait."""
        self._waiting.set(count)

    def began(self, job: JobRecord) -> None:
        """A job is worked on, from where it was."""
        self._known = job.progress
        self._running.set(1)

    def progressed(self, progress: Progress) -> None:
        """The job that is worked on has come this far."""
        self._tokens.inc(max(0, progress.tokens - self._known.tokens))
        self._seconds.inc(max(0.0, progress.seconds - self._known.seconds))
        self._known = progress
        self._share.set(progress.share or 0)
        self._left.set(progress.seconds_left or 0)
        self._loss.set(progress.loss or 0)

    def stopped(self, job: JobRecord) -> None:
        """A job is not worked on any more, for now or for good; called in a thread."""
        for gauge in (self._running, self._share, self._left):
            gauge.set(0)
        if job.state.has_ended:
            self._count(job)
        if job.progress.tokens:
            self._book.charge(job.id, job.name, job.progress.tokens, job.progress.seconds)

    def cancelled(self, job: JobRecord) -> None:
        """Somebody cancelled a job, which may have waited; if it was worked on, `stopped` follows."""
        self._count(job)

    def _count(self, job: JobRecord) -> None:
        """Count an end once, whoever tells of it first."""
        with self._counting:
            if job.id in self._counted:
                return
            self._counted.add(job.id)
        self._ended.labels(job.state.value).inc()
