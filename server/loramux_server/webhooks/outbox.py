"""The messages still to be delivered: written in the transaction that ends a job, removed when they arrived."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, update

from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_server.webhooks.endpoints import WebhookSettings
from loramux_server.webhooks.signing import Message
from loramux_server.webhooks.tables import outbox

LEASE_SECONDS = 30.0
"""Time for one attempt, after which another server, or the next one after a kill, may make another."""
_PREFIX = "fine_tuning.job."


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for one webhook, in its `attempts`-th attempt."""

    number: int
    message: Message
    attempts: int


class Outbox:
    """The outbox in the database `engine`. Methods block: call them in threads.

    Raises:
        SQLAlchemyError: the database fails (every method).
    """

    def __init__(self, engine: Engine, webhooks: Sequence[WebhookSettings]) -> None:
        self._engine, self._webhooks = engine, webhooks

    def add(self, connection: Connection, job: JobRecord, now: float) -> None:
        """Add the messages about a job that has ended, in the transaction of `connection`."""
        message = {"event": f"evt_{secrets.token_hex(16)}", "type": _PREFIX + job.state.value, "job": job.id, "at": now}
        rows = [
            message | {"endpoint": webhook.id, "attempts": 0, "next_at": now}
            for webhook in self._webhooks
            if message["type"] in webhook.events
        ]
        if rows:
            connection.execute(insert(outbox), rows)

    def claim(self, webhook: WebhookSettings, now: float) -> Delivery | None:
        """Return the next message for a webhook, which nobody else gets for LEASE_SECONDS; None if none is due."""
        due = select(outbox).where(outbox.c.endpoint == webhook.id, outbox.c.next_at <= now)
        with self._engine.connect() as connection:
            row = connection.execute(due.order_by(outbox.c.number).limit(1)).one_or_none()
        if row is None:
            return None
        unclaimed = update(outbox).where(outbox.c.number == row.number, outbox.c.next_at == row.next_at)
        with self._engine.begin() as connection:
            claimed = connection.execute(unclaimed.values(next_at=now + LEASE_SECONDS, attempts=row.attempts + 1))
        if not claimed.rowcount:  # another server was faster
            return None
        return Delivery(row.number, Message(row.event, row.type, row.job, row.at), row.attempts + 1)

    def postpone(self, delivery: Delivery, until: float) -> None:
        """Make a message due again at `until`."""
        with self._engine.begin() as connection:
            connection.execute(update(outbox).where(outbox.c.number == delivery.number).values(next_at=until))

    def remove(self, delivery: Delivery) -> None:
        """Remove a message that was delivered or given up."""
        with self._engine.begin() as connection:
            connection.execute(delete(outbox).where(outbox.c.number == delivery.number))

    def remove_older(self, than: float) -> None:
        """Remove messages about jobs that ended before a time: nobody delivers those to a URL that is no longer set."""
        with self._engine.begin() as connection:
            connection.execute(delete(outbox).where(outbox.c.at < than))
