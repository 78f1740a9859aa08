"""The last controlled result of each adapter, whatever measured it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_moments import TokenMoments


class ResultKind(StrEnum):
    """What measured a result."""

    JOB = "job"
    """The comparison at the end of a fine-tuning job, on its validation file."""
    EXPERIMENT = "experiment"
    """A random share of live requests."""


@dataclass(frozen=True, kw_only=True)
class ControlledResult:
    """A comparison of an adapter with a baseline in which only the variant differed, not the requests."""

    adapter: str
    version: str | None
    """The measured version, NAME@DIGEST; None if it is unknown or was removed."""
    kind: ResultKind
    id: str
    measured_at: float
    """Unix time in seconds."""
    verdict: str
    sentence: str
    items: int
    """The items (of a job) or users and requests (of an experiment) of each variant."""
    baseline: str
    """The variant that the adapter was compared with, such as "base with 23 examples in its prompt"."""
    is_baseline_base: bool = True
    """Whether that is the base, without or with a prompt, and not another version of the adapter."""
    measure: str | None = None
    gain: Interval | None = None
    """The adapter's mean of `measure` minus the baseline's."""
    is_worth_it: bool = False
    """Whether the adapter is shown not to be worse than the baseline, but for a margin; only then a saving is one."""
    tokens: TokenMoments | None = None
    """The token counts of both variants, from which any price list makes a saving per request."""
    command: str
    """The command that shows the whole result."""


class ControlledResultSource(Protocol):
    """Something that measures adapters under control."""

    def latest(self) -> Mapping[str, ControlledResult]:
        """Return the newest result of each adapter, by the adapter's name; may block on the database."""


def latest_results(sources: Iterable[ControlledResultSource]) -> dict[str, ControlledResult]:
    """Return the newest result of each adapter over all sources."""
    newest: dict[str, ControlledResult] = {}
    for source in sources:
        for adapter, result in source.latest().items():
            if adapter not in newest or newest[adapter].measured_at < result.measured_at:
                newest[adapter] = result
    return newest
