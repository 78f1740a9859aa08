"""The running experiments in memory: which requests belong to one, decided without waiting for anything."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loramux_adapters.models import VersionId, VersionState
from loramux_adapters.resolver import AdapterResolver
from loramux_server.experiments.assignment import Assignment, assign
from loramux_server.experiments.errors import ExperimentRunning
from loramux_server.experiments.measures import Measure
from loramux_server.experiments.models import Experiment, Variant
from loramux_server.request_context import RequestContext


@dataclass(frozen=True)
class RunningExperiment:
    """A running experiment with its measure, which is None for feedback."""

    experiment: Experiment
    measure: Measure | None


class LiveExperiments:
    """The running experiments, at most one per adapter."""

    def __init__(self, resolver: AdapterResolver, on_change: Callable[[int], None] = lambda _count: None) -> None:
        self._resolver, self._on_change = resolver, on_change
        self._running: dict[str, RunningExperiment] = {}

    def add(self, running: RunningExperiment) -> None:
        """Assign requests of the adapter from now on."""
        self._running[running.experiment.config.adapter] = running
        self._on_change(len(self._running))

    def remove(self, experiment: Experiment) -> None:
        """Assign no further requests."""
        found = self._running.get(experiment.config.adapter)
        if found is not None and found.experiment.id == experiment.id:
            del self._running[experiment.config.adapter]
            self._on_change(len(self._running))

    def all(self) -> Iterable[RunningExperiment]:
        """Return the running experiments."""
        return list(self._running.values())

    def of(self, adapter: str) -> RunningExperiment | None:
        """Return the running experiment of an adapter."""
        return self._running.get(adapter)

    def assign(self, model: str, context: RequestContext) -> Assignment | None:
        """Assign a chat request for `model`, which may be an alias, to a variant; None if it belongs to no experiment.

        A request for NAME@DIGEST or the base belongs to none.
        """
        found = self._running.get(self._resolver.own_name(model)) if self._running else None
        if found is None or broken_reason(found.experiment, self._resolver) is not None:
            return None
        return assign(found.experiment, context.end_user, found.measure)

    def check_alias_change(self, adapter: str) -> None:
        """Check that no experiment compares what the adapter's name points at.

        Raises:
            ExperimentRunning: one does.
        """
        found = self._running.get(adapter)
        if found is not None:
            raise ExperimentRunning(
                f"The experiment {found.experiment.id} compares what {adapter} points at: stop it first."
            )


def broken_reason(experiment: Experiment, resolver: AdapterResolver) -> str | None:
    """Return why an experiment can't go on, None if it can."""
    config = experiment.config
    record = resolver.get(config.adapter)
    if record is None:
        return f"{config.adapter} was removed."
    if {str(VersionId(record.name, digest)) for digest in record.targets} != {config.default_variant.version}:
        return f"{config.adapter} does not point at {config.default_variant.version} any more."
    return unserved_reason(config.sampled_variant, resolver)


def unserved_reason(variant: Variant, resolver: AdapterResolver) -> str | None:
    """Return why a variant's version is not served, None if it is."""
    if variant.version is None:
        return None
    version = resolver.version(variant.version)
    if version is None:
        return f"{variant.version} does not exist."
    if version.state is not VersionState.READY:
        return f"{variant.version} is {version.state}: {version.reason or 'it is not served'}."
    return None
