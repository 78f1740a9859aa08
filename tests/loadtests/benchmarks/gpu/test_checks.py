"""The checks pass for a server that computes what the reference does, and fail for every other one."""

import asyncio
import math
from typing import Any

import pytest

from benchmarks.gpu.checked_base import NAN
from benchmarks.gpu.checks import Checks, nan_control
from benchmarks.gpu.expected import BASE, Reference, make_prompts, read_reference
from benchmarks.gpu.scoring import Logprobs, Prompts, Refused, difference, read_logprobs
from loramux_loadtests.loadtest.errors import LoadTestError

PROMPTS = make_prompts(1000)
LEVEL = {"checked": -1.0, BASE: -1.0, "s0": -3.0, "s1": -5.0}


def logprobs(route: str, prompts: Prompts) -> Logprobs:
    """Return log-probabilities that tell which route computed them."""
    return [[LEVEL[route]] * (len(prompt) - 1) for prompt in prompts]


REFERENCE = read_reference(
    {
        "exact": {route: logprobs(route, PROMPTS) for route in (BASE, "s0", "s1")},
        "served": {route: [[LEVEL[route] + 0.01] * len(each) for each in logprobs(route, PROMPTS)]
                   for route in (BASE, "s0", "s1")},
        "by": "PEFT",
    },
    PROMPTS,
)  # fmt: skip


class FakeServer:
    """A server that is correct, except for what is changed."""

    def __init__(self, **changes: float | Refused) -> None:
        self.changes = changes
        self.poisoned = 0.0
        self.after_nan = 0.0
        self.stream_error = 0.0
        self.stream_seconds = 0.3
        self.refuses_nan = True

    async def score(self, model: str, prompts: Prompts) -> Logprobs | Refused:
        if model == NAN:
            self.poisoned = self.after_nan
            return Refused(503, "adapter_quarantined") if self.refuses_nan else [[math.nan]]
        change = self.changes.get(model, 0.0)
        if isinstance(change, Refused):
            return change
        return [[value + change + self.poisoned for value in each] for each in logprobs(model, prompts)]

    async def first_tokens(self, model: str, prompts: Prompts) -> list[float]:
        await self.score(model, [])
        return [math.nan if model == NAN else -1.0 + self.poisoned] * len(prompts)

    async def generate(self, model: str, _prompt: Any, tokens: int) -> tuple[list[int], list[float]] | Refused:
        await asyncio.sleep(self.stream_seconds)
        return [7] * tokens, [LEVEL[model] + self.stream_error] * tokens


def checks(server: FakeServer) -> Checks:
    """Return the checks of a server."""
    return Checks("loramux", server, "checked", REFERENCE)  # type: ignore[arg-type]


async def test_a_server_that_is_as_exact_as_peft_passes() -> None:
    alone, mixed = await checks(FakeServer(s0=0.015)).same_as_reference()
    assert (alone.passed, mixed.passed) == (True, True)
    assert alone.check == "log-probabilities as by PEFT, each alone"
    assert alone.measured == "worst s0: 1.5e-02 nats, allowed 2.0e-02"


@pytest.mark.parametrize("change", [0.021, -2.0, math.nan, Refused(500, "out of memory")])
async def test_another_result_of_one_route_fails(change: float | Refused) -> None:
    for result in await checks(FakeServer(s1=change)).same_as_reference():
        assert result.passed is False
        assert "wrong: s1" in result.measured
    assert "500 out of memory" in result.measured or not isinstance(change, Refused)


async def test_an_adapter_that_is_not_applied_fails() -> None:
    [alone, _] = await checks(FakeServer(s0=LEVEL[BASE] - LEVEL["s0"])).same_as_reference()
    assert alone.passed is False


async def test_loads_next_to_streams_pass_if_all_are_right() -> None:
    result = await checks(FakeServer()).load_next_to_stream()
    assert result.passed is True
    assert result.measured.endswith("streams: 1, at most 0.0e+00 nats, allowed 4.0e-02")


async def test_streams_follow_each_other_until_all_adapters_are_loaded() -> None:
    server = FakeServer()
    server.stream_seconds = 0.02
    assert "streams: 1," not in (await checks(server).load_next_to_stream()).measured


@pytest.mark.parametrize("error", [0.1, math.nan])
async def test_a_stream_that_is_changed_by_a_load_fails(error: float) -> None:
    server = FakeServer()
    server.stream_error = error
    assert (await checks(server).load_next_to_stream()).passed is False


async def test_an_adapter_that_is_wrong_after_its_load_fails() -> None:
    assert (await checks(FakeServer(s1=0.1)).load_next_to_stream()).passed is False


async def test_nan_that_is_refused_and_harms_nobody_passes() -> None:
    assert (await checks(FakeServer()).nan_isolation()).passed is True


@pytest.mark.parametrize(("after_nan", "refuses_nan"), [(math.nan, True), (0.5, True), (0.0, False)])
async def test_nan_that_is_answered_or_changes_others_fails(after_nan: float, refuses_nan: bool) -> None:
    server = FakeServer()
    server.after_nan, server.refuses_nan = after_nan, refuses_nan
    assert (await checks(server).nan_isolation()).passed is False


async def test_the_negative_control_tells_how_many_answers_changed() -> None:
    server = FakeServer()
    server.after_nan = math.nan
    result = await nan_control("stock", server, "checked", PROMPTS)  # type: ignore[arg-type]
    assert result.passed is None
    assert result.measured == f"{4 * len(PROMPTS)} of {4 * len(PROMPTS)} answers of the base changed"
    assert "0 of" in (await nan_control("stock", FakeServer(), "checked", PROMPTS)).measured  # type: ignore[arg-type]


def test_a_reference_whose_adapter_hardly_matters_is_refused() -> None:
    same = {BASE: [[-1.0]], "s0": [[-1.001]]}
    with pytest.raises(LoadTestError, match="effect of the adapter s0 is too small"):
        read_reference({"exact": same, "served": same, "by": "PEFT"}, [[1, 2]])


def test_a_difference_with_nan_is_nan_and_fits_nowhere() -> None:
    assert math.isnan(difference([[1.0, math.nan]], [[1.0, 1.0]]))
    assert not Reference([], {BASE: [[1.0]]}, {BASE: 9.0}, "").fits(BASE, [[math.nan]])


def test_a_prompts_logprobs_are_those_of_its_own_tokens() -> None:
    positions = [None, {"5": {"logprob": -1.5}, "9": {"logprob": -0.1}}, {"6": {"logprob": None}}]
    found = read_logprobs({"choices": [{"prompt_logprobs": positions}]}, [4, 5, 6])
    assert found[0] == -1.5
    assert math.isnan(found[1])
