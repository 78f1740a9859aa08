import pytest

from loramux_adapters.effect_policy import LEAST_EFFECT, MARGIN, fault
from loramux_adapters.models import ProbeAnswer, Proof


def proof(difference: float = 4.8, noise: float = 0.0, *, finite: bool = True) -> Proof:
    answer = ProbeAnswer(prompt="The capital of France is", base=" Paris", adapter=" Paris")
    return Proof(answers=(answer,), difference=difference, noise=noise, finite=finite)


@pytest.mark.parametrize(("difference", "noise"), [(4.8, 0.0), (2 * LEAST_EFFECT, 0.0), (0.3, 0.1)])
def test_what_changes_more_than_chance_does_may_serve(difference: float, noise: float) -> None:
    assert fault(proof(difference, noise)) is None


@pytest.mark.parametrize(
    ("difference", "noise"), [(0.0, 0.0), (0.0, 0.2), (3e-5, 0.0), (LEAST_EFFECT, 0.0), (MARGIN * 0.1, 0.1)]
)
def test_what_changes_no_more_than_chance_does_is_told_to_change_nothing(difference: float, noise: float) -> None:
    reason = fault(proof(difference, noise))
    assert reason is not None
    assert reason.startswith("it changes nothing")
    assert f"{difference:.2g}" in reason
    assert f"{noise:.2g}" in reason


def test_values_that_are_no_numbers_are_a_fault_whatever_else_changes() -> None:
    assert fault(proof(finite=False)) == "it makes the model compute values that are no numbers"
