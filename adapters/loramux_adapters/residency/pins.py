"""Pinned versions: loaded in the background, and kept in the engine's host memory."""

from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field

from loramux_adapters.background_tasks import BackgroundTasks
from loramux_adapters.errors import AdapterError, PinLimit, TransientError
from loramux_adapters.models import VersionId


@dataclass(eq=False)
class PinnedVersions:
    """The versions that should stay in host memory (`desired`, at most `max_pins`).

    A pin holds no slot: vLLM's scheduler plans steps with as many adapters as there are slots, whichever they are.
    `load` waits for room and loads a version. A load that fails with a TransientError is retried after the error's
    `retry_after`, for as long as the version is desired.
    """

    load: Callable[[VersionId], Awaitable[None]]
    is_resident: Callable[[VersionId], bool]
    max_pins: int
    sleep: Callable[[float], Awaitable[None]]
    desired: frozenset[VersionId] = frozenset()
    _tasks: BackgroundTasks = field(default_factory=BackgroundTasks)

    def check(self, versions: Set[VersionId]) -> None:
        """Check that all of these can be pinned together: unpinned versions need host memory too.

        Raises:
            PinLimit: there are more than `max_pins`.
        """
        if len(versions) > self.max_pins:
            raise PinLimit(
                f"{len(versions)} versions would be pinned, but at most {self.max_pins} can be: unpin another adapter, "
                "or raise LORAMUX_ENGINE__MAX_CPU_LORAS."
            )

    def set_desired(self, versions: Set[VersionId]) -> None:
        """Replace the desired pins, up to `max_pins`; missing versions are loaded in the background."""
        before, self.desired = self.desired, frozenset(sorted(versions)[: self.max_pins])
        for version in self.desired - before:
            self._tasks.start(self._load_until_resident(version))

    async def _load_until_resident(self, version: VersionId) -> None:
        while version in self.desired and not self.is_resident(version):
            try:
                await self.load(version)
            except TransientError as error:
                await self.sleep(error.retry_after)
            except AdapterError:
                return  # removed or corrupt: the removal or quarantine changes the pins as well
