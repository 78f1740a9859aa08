import itertools
from collections import Counter
from typing import Any

import pytest
from numpy.random import default_rng
from pydantic import ValidationError

from loramux_loadtests.loadtest.mix import Mix


def drawn(mix: Mix, count: int = 20_000) -> Counter[str]:
    return Counter(itertools.islice(mix.draw(default_rng(0)), count))


def test_weights_decide_how_often_a_route_is_requested() -> None:
    found = drawn(Mix(names=("base", "a", "never"), weights=(3, 1, 0)))
    assert found["base"] / found["a"] == pytest.approx(3, rel=0.1)
    assert "never" not in found


def test_zipf_makes_the_first_routes_popular() -> None:
    found = drawn(Mix(adapters=100, popularity="zipf", exponent=1.0))
    assert found["a0"] / found["a3"] == pytest.approx(4, rel=0.15)


def test_without_weights_all_routes_are_equally_likely() -> None:
    found = drawn(Mix(names=("base",), adapters=3))
    assert set(found) == {"base", "a0", "a1", "a2"}
    assert max(found.values()) / min(found.values()) < 1.1


def test_routes_in_turn_are_not_random() -> None:
    routes = itertools.islice(Mix(adapters=3, popularity="in turn").draw(default_rng(0)), 5)
    assert list(routes) == ["a0", "a1", "a2", "a0", "a1"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({}, "has no routes"),
        ({"names": ["a", "a"]}, "repeats a route"),
        ({"names": ["a0"], "adapters": 1}, "repeats a route"),
        ({"names": ["a"], "weights": [1, 2]}, "expected 1 weights"),
        ({"names": ["a"], "weights": [0]}, "above 0"),
        ({"names": ["a"], "weights": [-1]}, "greater than or equal"),
        ({"names": ["a"], "weights": [1], "popularity": "zipf"}, "can't be combined"),
        ({"names": [""]}, "at least 1 character"),
        ({"adapters": 10**9}, "less than or equal"),
        ({"names": ["a"], "exponent": 0}, "greater than 0"),
    ],
)
def test_an_invalid_mix_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Mix.model_validate(wrong)
