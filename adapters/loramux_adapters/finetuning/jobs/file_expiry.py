"""Deletes files and uploads that have expired."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.uploads import Uploads

_log = logging.getLogger(__name__)


@dataclass
class FileExpiry:
    """Deletes expired files, except those that an unfinished job needs, and the parts of expired uploads."""

    files: TrainingFiles
    uploads: Uploads
    interval_seconds: float = 60.0
    now: Callable[[], float] = time.time

    async def run_forever(self) -> None:
        """Look for them at intervals."""
        while True:
            try:
                await asyncio.to_thread(self.delete_expired)
            except Exception:  # noqa: BLE001 - otherwise nothing would be deleted until the server restarts
                _log.exception("expired files can't be deleted now")
            await asyncio.sleep(self.interval_seconds)

    def delete_expired(self) -> None:
        """Delete what has expired by now.

        Raises:
            StoreError: the database or the disk fails.
        """
        self.files.delete_expired(self.now())
        self.uploads.delete_expired(self.now())
