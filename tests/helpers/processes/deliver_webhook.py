"""Ends a job and starts to deliver its webhook: `python -m tests.helpers.processes.deliver_webhook DATABASE URL`.

It prints the job's id when the job has ended, and runs until it is killed.
"""

import asyncio
import sys
import time
from pathlib import Path

from loramux_adapters.finetuning.jobs.models import NewJob
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import AdapterName
from loramux_server.webhooks.delivery import WebhookDelivery
from loramux_server.webhooks.endpoints import WebhookSettings
from loramux_server.webhooks.outbox import Outbox
from tests.helpers.migrated_database import migrated_database
from tests.helpers.stored_files import add_files
from tests.helpers.webhook_receiver import SECRET


def main() -> None:
    database, url = sys.argv[1:]
    engine = migrated_database(Path(database))
    webhooks = [WebhookSettings.model_validate({"url": url, "secret": SECRET})]
    outbox = Outbox(engine, webhooks)
    registry = JobRegistry(engine, outbox.add)
    add_files(engine, "file-1")
    new = NewJob("tiny", AdapterName("ft:tiny"), "file-1", None, None, 1, {}, None, "test")
    job = registry.create(new, time.time(), 10)
    registry.move(job.id, JobState.CANCELLED, time.time())
    print(job.id, flush=True)  # noqa: T201
    asyncio.run(WebhookDelivery(outbox, webhooks).run_forever())


if __name__ == "__main__":
    main()
