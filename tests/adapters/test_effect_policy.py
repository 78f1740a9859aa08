import pytest

from loramux_adapters.effect_policy import MIN_EFFECT_NATS, NOISE_FACTOR, rejection_reason
from loramux_adapters.models import EffectCheck, ProbeAnswer


def check(difference: float = 4.8, noise: float = 0.0, *, finite: bool = True) -> EffectCheck:
    answer = ProbeAnswer(prompt="The capital of France is", base=" Paris", adapter=" Paris")
    return EffectCheck(answers=(answer,), difference=difference, noise=noise, finite=finite)


@pytest.mark.parametrize(("difference", "noise"), [(4.8, 0.0), (2 * MIN_EFFECT_NATS, 0.0), (0.3, 0.1)])
def test_an_effect_above_the_noise_is_accepted(difference: float, noise: float) -> None:
    assert rejection_reason(check(difference, noise)) is None


@pytest.mark.parametrize(
    ("difference", "noise"), [(0.0, 0.0), (0.0, 0.2), (3e-5, 0.0), (MIN_EFFECT_NATS, 0.0), (NOISE_FACTOR * 0.1, 0.1)]
)
def test_an_effect_within_the_noise_is_rejected_with_both_numbers(difference: float, noise: float) -> None:
    reason = rejection_reason(check(difference, noise))
    assert reason is not None
    assert reason.startswith("it has no effect")
    assert f"{difference:.2g}" in reason
    assert f"{noise:.2g}" in reason


def test_nan_or_infinite_values_are_rejected_whatever_the_effect() -> None:
    assert rejection_reason(check(finite=False)) == "it makes the model compute NaN or infinite values"
