"""Users' feedback on requests: one per request, stored with the request's route."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from loramux_server.errors import RateLimited
from loramux_server.experiments.errors import FeedbackClosed, RequestNotFound
from loramux_server.experiments.feedback_repository import AnsweredRequest, FeedbackRepository, StoredFeedback
from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.metering.usage_record import Route, UsageRecord

MAX_RECENT = 20_000
"""Requests that are remembered before and after the ledger has them."""
CHANGE_SECONDS = 3600.0
"""How long after the first feedback on a request it may be changed."""
PER_SECOND, BURST = 20.0, 100.0
"""Feedback of one API key per second, and at once."""
CLEANUP_SECONDS = 600.0


class RecentRequests:
    """A Meter that remembers the latest requests with an answer, by API key and request id."""

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[str, str], AnsweredRequest] = OrderedDict()

    def begin(self, route: Route) -> None:
        """Do nothing: a request gets feedback when it has ended."""

    def record(self, record: UsageRecord) -> None:
        """Remember a request; a later one with the same id replaces it."""
        if record.route is None or (record.experiment is not None and record.experiment.is_shadow):
            return
        experiment = record.experiment.experiment.id if record.experiment else ""
        key = (record.key_id or "", record.request_id)
        found = AnsweredRequest(record.route.kind, record.route.adapter or "", record.route.version or "", experiment)
        self._requests[key] = found
        self._requests.move_to_end(key)
        if len(self._requests) > MAX_RECENT:
            self._requests.popitem(last=False)

    def find(self, key_id: str, request_id: str) -> AnsweredRequest | None:
        """Return the request, None if it is unknown or too old."""
        return self._requests.get((key_id, request_id))


@dataclass
class _Bucket:
    tokens: float
    at: float


class FeedbackService:
    """Accepts feedback. Of two on the same request, the later one counts, if it comes within CHANGE_SECONDS."""

    def __init__(
        self,
        repository: FeedbackRepository,
        metrics: ExperimentMetrics,
        retention_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._repository, self._metrics, self._retention, self._now = repository, metrics, retention_seconds, now
        self.recent = RecentRequests()
        self._buckets: dict[str, _Bucket] = {}
        self._cleaned_at = now()

    async def give(self, key_id: str, request_id: str, score: float, label: str | None) -> AnsweredRequest:
        """Store the feedback of an API key on one of its requests, and return the request.

        Raises:
            RateLimited: too much feedback of this key.
            RequestNotFound: no request of this key has this id.
            FeedbackClosed: the first feedback on it was given too long ago.
        """
        self._limit_rate(key_id)
        found = self.recent.find(key_id, request_id)
        found = found or await asyncio.to_thread(self._repository.find_request, key_id, request_id)
        if found is None:
            raise RequestNotFound(
                "No request of this API key has this id; it is in the response's header `x-request-id`."
            )
        now = self._now()
        stored = StoredFeedback(key_id, request_id, now, score, label, *found)
        if not await asyncio.to_thread(self._repository.put, stored, now - CHANGE_SECONDS):
            raise FeedbackClosed("The feedback on this request was given more than an hour ago and can't be changed.")
        self._metrics.feedback()
        if now - self._cleaned_at > CLEANUP_SECONDS:
            self._cleaned_at = now
            await asyncio.to_thread(self._repository.delete_before, now - self._retention)
        return found

    def _limit_rate(self, key_id: str) -> None:
        now = self._now()
        bucket = self._buckets.setdefault(key_id, _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + max(0.0, now - bucket.at) * PER_SECOND)
        bucket.at = now
        if bucket.tokens < 1:
            raise RateLimited(f"At most {PER_SECOND:g} feedbacks per second are accepted.")
        bucket.tokens -= 1
