"""The exported checkpoints of a job that are not published yet: that takes an engine that is awake."""

from dataclasses import dataclass, field
from pathlib import Path

from loramux_adapters.finetuning.events import Checkpointed
from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord
from loramux_adapters.finetuning.jobs.result_publisher import ResultPublisher


@dataclass
class CheckpointQueue:
    """The checkpoints of one training, in `output`, each with the progress at which it was exported.

    One that is still here when a training is interrupted is published with the job's result.
    """

    publisher: ResultPublisher
    job: JobRecord
    output: Path
    _waiting: list[tuple[Checkpointed, JobProgress]] = field(default_factory=list)

    def add(self, checkpoint: Checkpointed, progress: JobProgress) -> None:
        """Add a checkpoint."""
        self._waiting.append((checkpoint, progress))

    async def publish(self) -> None:
        """Publish all of them, oldest first.

        Raises:
            AdapterError: see `ResultPublisher.publish_checkpoint`.
        """
        while self._waiting:
            checkpoint, progress = self._waiting.pop(0)
            folder = self.output / checkpoint.folder
            await self.publisher.publish_checkpoint(self.job, folder, checkpoint.step, progress)
