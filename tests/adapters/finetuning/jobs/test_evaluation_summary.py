import pytest

from loramux_adapters.finetuning.jobs.evaluation_summary import EvaluationSummary
from tests.adapters.finetuning.jobs.test_summarize import summary

OLD = {
    "questions": 20,
    "left_out": 0,
    "measure": "exact match",
    "arms": {
        name: {
            "scores": {"exact match": {"low": 0.4, "mean": 0.5, "high": 0.6}},
            "input_tokens": 20.0,
            "output_tokens": 2.0,
            "seconds": 0.5,
        }
        for name in ("base", "adapter")
    },
    "rival": "base",
    "gain": {"low": 0.0, "mean": 0.0, "high": 0.0},
    "verdict": "no difference shown",
    "sentence": "Keep the base, unless cost decides.",
}
"""As release 0.2 stored it."""


def test_a_summary_survives_the_database_with_the_field_names_that_clients_read() -> None:
    found = summary([1] * 12, [0] * 12, [1] * 12)
    stored = found.model_dump(mode="json")
    assert OLD.keys() <= stored.keys()
    arm = stored["arms"]["base"]
    assert OLD["arms"]["base"].keys() <= arm.keys()  # type: ignore[index]
    assert stored["gain"].keys() == arm["scores"]["exact match"].keys() == {"low", "mean", "high"}
    assert EvaluationSummary.model_validate(stored) == found


@pytest.mark.parametrize("verdict", ["no difference shown", "too few questions", "better", "worse"])
def test_a_summary_of_an_earlier_release_can_be_read(verdict: str) -> None:
    found = EvaluationSummary.model_validate(OLD | {"verdict": verdict})
    assert (found.verdict, found.warnings, found.candidates, found.items_needed) == (verdict, [], [], None)
