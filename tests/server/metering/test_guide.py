"""docs/metrics.md lists every metric."""

import re
from pathlib import Path

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.fairness.metrics import AdmissionMetrics
from loramux_server.metering.job_metrics import JobMetrics
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.pricing import FixedPrices, Prices
from loramux_server.metering.prometheus import PrometheusMetrics

GUIDE = Path(__file__).parents[3] / "docs" / "metrics.md"


def listed() -> dict[str, tuple[str, set[str]]]:
    rows = re.findall(r"^\| `(loramux_\w+)` \| (\w+) \| ([\w, ]*?) ?\|", GUIDE.read_text(), re.MULTILINE)
    return {name: (kind, set(filter(None, labels.split(", ")))) for name, kind, labels in rows}


def test_the_guide_lists_every_metric_with_its_type_and_labels() -> None:
    registry = CollectorRegistry()
    all_metrics = (
        PrometheusMetrics(registry),
        JobMetrics(TrainingCosts(sa.create_engine("sqlite://"), FixedPrices(Prices())), registry),
        ExperimentMetrics(registry),
        AdmissionMetrics(registry),
    )
    collectors = [value for metrics in all_metrics for value in vars(metrics).values() if hasattr(value, "describe")]
    [*families] = (family for collector in collectors for family in collector.describe())
    names = [family.name + "_total" * (family.type == "counter") for family in families]
    assert len(names) == len([*registry.collect()])
    assert listed() == {
        name: (family.type, set(collector._labelnames))
        for name, family, collector in zip(names, families, collectors, strict=True)
    }
