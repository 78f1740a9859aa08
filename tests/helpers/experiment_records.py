"""Values of experiments for tests."""

from typing import Any

from loramux_adapters.models import AdapterName
from loramux_server.experiments.models import (
    Experiment,
    ExperimentConfig,
    FeedbackQuality,
    Limits,
    Observation,
    Outcome,
    Promotion,
    State,
    Variant,
)

OLD, NEW = "tone@" + "a" * 12, "tone@" + "b" * 12
BASELINE_CONFIG = ExperimentConfig(
    adapter=AdapterName("tone"),
    challenger=Variant(name="adapter", version=OLD),
    reference=Variant(name="baseline", version=None),
    sampled="reference",
    share=0.5,
    quality=FeedbackQuality(),
)
CANARY_CONFIG = ExperimentConfig(
    adapter=AdapterName("tone"),
    challenger=Variant(name="candidate", version=NEW),
    reference=Variant(name="current", version=OLD),
    sampled="challenger",
    share=0.5,
    quality=FeedbackQuality(),
    promotion=Promotion(when="better", limits=Limits()),
)


def experiment_of(config: ExperimentConfig, experiment_id: str = "exp_1") -> Experiment:
    """Return a running experiment."""
    return Experiment(id=experiment_id, config=config, state=State.RUNNING, actor="test", created_at=0.0)


def observation(variant: str, unit: str = "user", score: float | None = None, **values: Any) -> Observation:
    """Return an answered request, except for `values`."""
    given: dict[str, Any] = {
        "at": 0.0,
        "request_id": f"req-{unit}",
        "key_id": "key",
        "outcome": Outcome.ANSWERED,
        "duration": 1.0,
        "input_tokens": 100,
        "output_tokens": 10,
        "price_list_cost": 1000,
        "gpu_hour_cost": None,
    }
    return Observation(variant=variant, unit=unit, score=score, **given | values)


def observations(variant: str, count: int, score: float | None, **values: Any) -> list[Observation]:
    """Return requests of as many users."""
    return [observation(variant, f"{variant}-{number}", score, **values) for number in range(count)]
