"""Exponential backoff for versions that failed to load, so that not every request retries the load."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loramux_adapters.errors import AdapterLoadingFailed
from loramux_adapters.models import VersionId

INITIAL_DELAY = 1.0
MAX_DELAY = 300.0
"""Seconds before the first retry, and the limit up to which the delay doubles with each failure."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The current delay of a version in seconds, and the clock time from which a load may be retried."""

    delay: float
    retry_at: float


@dataclass
class LoadBackoff:
    """The versions whose last load failed, and when each may be retried; times are seconds of `clock`."""

    clock: Callable[[], float] = time.monotonic
    _backoffs: dict[VersionId, Backoff] = field(default_factory=dict)

    def record_failure(self, version: VersionId) -> None:
        """Start the version's next delay: twice the one before, up to MAX_DELAY."""
        before = self._backoffs.get(version)
        delay = min(before.delay * 2, MAX_DELAY) if before else INITIAL_DELAY
        self._backoffs[version] = Backoff(delay, self.clock() + delay)

    def reset(self, version: VersionId) -> None:
        """End the version's backoff, after a successful load or before a forced retry."""
        self._backoffs.pop(version, None)

    def check(self, version: VersionId) -> None:
        """Refuse a version during its backoff.

        Raises:
            AdapterLoadingFailed: the version's delay has not passed yet.
        """
        if (retry_after := self.retry_after(version)) > 0:
            raise loading_failed(version, retry_after)

    def retry_after(self, version: VersionId) -> float:
        """Seconds until the version may be loaded again; 0 if it may be loaded now."""
        backoff = self._backoffs.get(version)
        return max(0.0, backoff.retry_at - self.clock()) if backoff else 0.0

    def backed_off(self) -> dict[VersionId, float]:
        """Seconds until each failed version may be loaded again."""
        return {version: self.retry_after(version) for version in self._backoffs}


def loading_failed(version: VersionId, retry_after: float) -> AdapterLoadingFailed:
    """Return the error for a request to a version that failed to load."""
    message = f"The adapter {version} could not be loaded; it will be retried in {retry_after:.0f} s."
    return AdapterLoadingFailed(message, retry_after)
