import itertools

import numpy as np
import pytest
from numpy.random import default_rng
from pydantic import TypeAdapter, ValidationError

from loramux_loadtests.loadtest.arrivals import Arrivals, Bursts, Constant, Gamma, Poisson

ARRIVALS: TypeAdapter[Arrivals] = TypeAdapter(Arrivals)


def first(process: Poisson | Gamma | Constant | Bursts, count: int, seed: int = 0) -> list[float]:
    return list(itertools.islice(process.times(default_rng(seed)), count))


@pytest.mark.parametrize(
    "process", [Poisson(rate=5), Gamma(rate=5, burstiness=0.3), Constant(rate=5), Bursts(rate=5, size=7)]
)
def test_the_same_seed_gives_the_same_times_and_the_requested_rate(process: Poisson) -> None:
    times = first(process, 20_000)
    assert times == first(process, 20_000)
    assert times == sorted(times)
    assert 20_000 / times[-1] == pytest.approx(5, rel=0.05)


def test_another_seed_gives_other_times() -> None:
    assert first(Poisson(rate=5), 10, seed=1) != first(Poisson(rate=5), 10, seed=2)


@pytest.mark.parametrize(
    ("process", "variation"),
    [(Poisson(rate=2), 1.0), (Gamma(rate=2, burstiness=0.25), 2.0), (Gamma(rate=2, burstiness=4), 0.5)],
)
def test_gaps_vary_as_vllms_burstiness_says(process: Poisson | Gamma, variation: float) -> None:
    gaps = np.diff(first(process, 50_000))
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)


def test_constant_arrivals_do_not_drift() -> None:
    assert first(Constant(rate=3), 301)[300] == 100.0


def test_requests_of_a_burst_are_simultaneous() -> None:
    assert first(Bursts(rate=2, size=4), 9) == [0.0] * 4 + [2.0] * 4 + [4.0]


@pytest.mark.parametrize("rate", [0, -1, 1e9, float("nan"), float("inf"), "fast"])
@pytest.mark.parametrize("process", ["poisson", "gamma", "constant", "bursts"])
def test_invalid_rates_are_refused(process: str, rate: object) -> None:
    with pytest.raises(ValidationError, match="rate"):
        ARRIVALS.validate_python({"process": process, "rate": rate, "burstiness": 1, "size": 1})


@pytest.mark.parametrize("burstiness", [0, -1, float("nan")])
def test_invalid_burstiness_is_refused(burstiness: float) -> None:
    with pytest.raises(ValidationError, match="burstiness"):
        ARRIVALS.validate_python({"process": "gamma", "rate": 1, "burstiness": burstiness})
