"""Versions that did not get into the engine, remembered so that not every request tries again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loramux_adapters.errors import AdapterLoadingFailed
from loramux_adapters.models import VersionId

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How long a version is left alone (until `retry_at` on the clock) after it failed; the pause doubles each time."""

    pause: float
    retry_at: float


@dataclass
class Failures:
    """What failed and when it may be tried again; times are seconds of `clock`."""

    clock: Callable[[], float] = time.monotonic
    _known: dict[VersionId, Failure] = field(default_factory=dict)

    def remember(self, version: VersionId) -> None:
        """Note that a load failed just now."""
        before = self._known.get(version)
        pause = min(before.pause * 2, LONGEST_PAUSE) if before else FIRST_PAUSE
        self._known[version] = Failure(pause, self.clock() + pause)

    def forget(self, version: VersionId) -> None:
        """It was loaded, or deserves a new chance."""
        self._known.pop(version, None)

    def check(self, version: VersionId) -> None:
        """Raise AdapterLoadingFailed while the version is left alone."""
        if (wait := self.pause(version)) > 0:
            raise failed(version, wait)

    def pause(self, version: VersionId) -> float:
        """Seconds until the version may be tried again; 0 if it may now."""
        failure = self._known.get(version)
        return max(0.0, failure.retry_at - self.clock()) if failure else 0.0

    def pauses(self) -> dict[VersionId, float]:
        """The same of each that failed."""
        return {version: self.pause(version) for version in self._known}


def failed(version: VersionId, wait: float) -> AdapterLoadingFailed:
    """The error for requests to a version that failed."""
    return AdapterLoadingFailed(f"The adapter {version} could not be loaded; it is tried again in {wait:.0f} s.", wait)
