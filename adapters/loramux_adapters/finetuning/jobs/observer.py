"""Who is told what the supervisor does."""

from typing import Protocol

from loramux_adapters.finetuning.jobs.models import JobRecord, Progress


class Observer(Protocol):
    """Counts jobs, and enters what they cost."""

    def waiting(self, count: int) -> None:
        """So many jobs wait."""

    def began(self, job: JobRecord) -> None:
        """A job is worked on, from where it was."""

    def progressed(self, progress: Progress) -> None:
        """The job that is worked on has come this far."""

    def stopped(self, job: JobRecord) -> None:
        """A job is not worked on any more, for now or for good; called in a thread, may raise StoreError."""


class Unobserved:
    """Tells nobody."""

    def waiting(self, count: int) -> None:
        """Nobody."""

    def began(self, job: JobRecord) -> None:
        """Nobody."""

    def progressed(self, progress: Progress) -> None:
        """Nobody."""

    def stopped(self, job: JobRecord) -> None:
        """Nobody."""
