"""The verdicts of ended experiments, as controlled results."""

from collections.abc import Mapping
from dataclasses import dataclass

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_moments import TokenCounts, TokenMoments
from loramux_server.controlled_results.models import ControlledResult, ResultKind
from loramux_server.experiments.models import Experiment, Variant
from loramux_server.experiments.report import ExperimentReport
from loramux_server.experiments.repository import ExperimentRepository
from loramux_server.experiments.verdict import NOT_WORSE


@dataclass(frozen=True)
class ExperimentResults:
    """Reads the experiments that ended with a verdict; a ControlledResultSource."""

    repository: ExperimentRepository

    def latest(self) -> Mapping[str, ControlledResult]:
        """Return the newest decided experiment of each adapter; reads the database.

        Raises:
            StoreError: the database can't be read.
        """
        found: dict[str, ControlledResult] = {}
        for experiment in self.repository.ended():
            report = ExperimentReport.model_validate(experiment.result)
            if report.verdict != "undecided":
                found.setdefault(experiment.config.adapter, self._result(experiment, report))
        return found

    def _result(self, experiment: Experiment, report: ExperimentReport) -> ControlledResult:
        config, difference = experiment.config, report.difference
        return ControlledResult(
            adapter=config.adapter,
            version=config.challenger.version,
            kind=ResultKind.EXPERIMENT,
            id=experiment.id,
            measured_at=experiment.ended_at or experiment.created_at,
            verdict=report.verdict,
            sentence=report.sentence,
            items=min(report.challenger.scored_units, report.reference.scored_units),
            baseline=_description(config.reference),
            is_baseline_base=config.reference.version is None,
            measure=config.quality.type,
            gain=Interval(difference.low, difference.estimate, difference.high),
            is_worth_it=report.verdict in NOT_WORSE,
            tokens=self._token_moments(experiment) if config.shadow else None,
            command=f"loramux experiment show {experiment.id}",
        )

    def _token_moments(self, experiment: Experiment) -> TokenMoments | None:
        """Return the token counts of the pairs of a shadow experiment, while its requests are kept."""
        rows = self.repository.observations(experiment.id, with_feedback=False)
        counts = {(row.variant, row.request_id): TokenCounts(row.input_tokens, None, row.output_tokens) for row in rows}
        ours, theirs = experiment.config.challenger.name, experiment.config.reference.name
        requests = [request for variant, request in counts if variant == ours and (theirs, request) in counts]
        return TokenMoments.of(*([counts[variant, request] for request in requests] for variant in (ours, theirs)))


def _description(variant: Variant) -> str:
    if variant.version is not None:
        return variant.version
    return f"base with {len(variant.prompt)} messages before each request" if variant.prompt else "base"
