"""Delivers the messages of the outbox, each webhook's in a task of its own: a slow receiver delays no other.

A message is delivered at least once. A receiver that answers with a status other than 2xx, or not in time, gets it
again, for three days, with growing pauses; its `webhook-id` stays the same.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
from sqlalchemy.exc import SQLAlchemyError

from loramux_server.webhooks.endpoints import WebhookSettings
from loramux_server.webhooks.outbox import Delivery, Outbox
from loramux_server.webhooks.signing import signed_headers

TIMEOUT_SECONDS = 15.0
"""Longest wait for a receiver's answer; shorter than the lease of an attempt."""
GIVE_UP_SECONDS = 72 * 3600.0
"""OpenAI's."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 3600.0
_MAX_DOUBLINGS = 16
_log = logging.getLogger(__name__)


@dataclass
class WebhookDelivery:
    """Delivers messages while `run_forever` runs."""

    outbox: Outbox
    webhooks: Sequence[WebhookSettings]
    count: Callable[[str], None] = lambda _: None
    """Called with the outcome of each attempt: `delivered`, `failed` or `given_up`."""
    poll_seconds: float = 1.0
    """Pause before the outbox is read again after it was empty, or after an error of the database."""
    first_pause: float = FIRST_PAUSE_SECONDS
    now: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.SystemRandom)

    async def run_forever(self) -> None:
        """Deliver messages."""
        with suppress(SQLAlchemyError):  # the next start does it
            await asyncio.to_thread(self.outbox.remove_older, self.now() - GIVE_UP_SECONDS - MAX_PAUSE_SECONDS)
        if not self.webhooks:
            return
        # Not httpx, which logs the URLs that it requests.
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            for webhook in self.webhooks:
                group.create_task(self._deliver_forever(session, webhook))

    async def _deliver_forever(self, session: aiohttp.ClientSession, webhook: WebhookSettings) -> None:
        while True:
            try:
                if await self._deliver_next(session, webhook):
                    continue
            except Exception:  # noqa: BLE001 - otherwise nothing would be delivered until the server restarts
                _log.exception("the messages to %s can't be delivered now", webhook.host)
            await asyncio.sleep(self.poll_seconds)

    async def _deliver_next(self, session: aiohttp.ClientSession, webhook: WebhookSettings) -> bool:
        """Make one attempt to deliver the next message; returns whether there was one."""
        delivery = await asyncio.to_thread(self.outbox.claim, webhook, self.now())
        if delivery is None:
            return False
        problem = await self._post(session, webhook, delivery)
        if problem is None:
            await asyncio.to_thread(self.outbox.remove, delivery)
            self.count("delivered")
        elif self.now() - delivery.message.at >= GIVE_UP_SECONDS:
            await asyncio.to_thread(self.outbox.remove, delivery)
            self.count("given_up")
            _log.error("webhook %s to %s was given up: %s", delivery.message.event, webhook.host, problem)
        else:
            await asyncio.to_thread(self.outbox.postpone, delivery, self.now() + self._pause(delivery.attempts))
            self.count("failed")
            _log.warning("webhook %s to %s failed: %s", delivery.message.event, webhook.host, problem)
        return True

    async def _post(self, session: aiohttp.ClientSession, webhook: WebhookSettings, delivery: Delivery) -> str | None:
        """Post the message; returns why it did not arrive, None if it did. The answer's body is not read."""
        message = delivery.message
        headers, url = signed_headers(message, webhook.key, self.now()), webhook.url.get_secret_value()
        try:
            # A redirect is not followed: it could lead into the network of this machine.
            async with session.post(url, data=message.body, headers=headers, allow_redirects=False) as response:
                return None if 200 <= response.status < 300 else f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__  # its message may contain the URL

    def _pause(self, attempts: int) -> float:
        """Return the seconds before the next attempt; they differ, so that messages don't come at once."""
        longest = min(self.first_pause * 2.0 ** min(attempts - 1, _MAX_DOUBLINGS), MAX_PAUSE_SECONDS)
        return longest * self.rng.uniform(0.5, 1)
