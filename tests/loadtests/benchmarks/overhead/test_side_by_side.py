from pathlib import Path

import pytest
from numpy.random import default_rng

from benchmarks import bursts
from benchmarks.bursts import BurstFailedError, BurstTraffic, run_bursts_in_turn, summarize_bursts
from benchmarks.overhead import side_by_side
from benchmarks.overhead.side_by_side import ComparisonPlan, alternating_order, stock_against_itself
from benchmarks.progress import StepProgress
from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.servers import ServerSetup
from tests.helpers.fake_openai_process import fake_spec

pytestmark = pytest.mark.slow

SETUP = ServerSetup(Path("/models/base"), {"tone": Path("/tone"), "intent": Path("/intent")}, {"max_loras": 4}, {})


@pytest.fixture(autouse=True)
def _nothing_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "SETTLE_SECONDS", 0)


def reply(sent: float, first: float, last: float, tokens: int = 5) -> ChatReply:
    return ChatReply(
        ok=True,
        status=200,
        text="x",
        input_tokens=9,
        cached_tokens=0,
        output_tokens=tokens,
        scheduled=sent,
        sent=sent,
        first=first,
        chunk_times=(),
        last=last,
        error=None,
        model="base",
        request_id="",
    )


class Recorder(ChatClient):
    """A client that answers by itself and records its requests."""

    def __init__(self, name: str, log: list[tuple[str, str, str]]) -> None:
        super().__init__(f"http://{name}")
        self.name, self.log = name, log

    async def chat(self, model: str, messages: object, *, max_tokens: int, **_: object) -> ChatReply:
        assert isinstance(messages, list)
        self.log.append((self.name, model, messages[0]["content"]))
        return reply(0.0, 1.0, 2.0, tokens=max_tokens)


def test_throughput_counts_from_the_first_request_sent_to_the_last_token_of_each_burst() -> None:
    first_burst = [reply(0.0, 1.0, 5.0), reply(0.5, 2.0, 4.0)]
    second_burst = [reply(10.0, 11.0, 15.0), reply(10.0, 13.0, 15.0)]
    both = summarize_bursts([first_burst, second_burst])
    assert both.throughput == 20 / (5 + 5)
    assert both.ttft == 1.25  # of 1, 1.5, 1 and 3
    assert both.tpot == 0.75  # of 1, 0.5, 1 and 0.5


async def test_servers_take_turns_and_get_the_same_prompts_which_come_only_once() -> None:
    log: list[tuple[str, str, str]] = []
    clients = {name: Recorder(name, log) for name in "AB"}
    order = alternating_order(["A", "B"], 2, first=0)
    await run_bursts_in_turn(clients, order, ["base", "tone"], BurstTraffic(streams=4, tokens=8), default_rng(1))
    assert "".join(name for name, _, _ in log[::4]) == "ABBA"
    requests = {name: [(model, text) for client, model, text in log if client == name] for name in "AB"}
    assert requests["A"] == requests["B"]
    assert [model for model, _ in requests["A"]] == ["base", "tone"] * 4
    assert len({text for _, text in requests["A"]}) == 8


@pytest.mark.parametrize(("first", "order"), [(0, "ABBAAB"), (1, "BAABBA")])
def test_every_server_comes_first_as_often_as_the_other(first: int, order: str) -> None:
    assert "".join(alternating_order(["A", "B"], 3, first=first)) == order


def test_prompts_differ_from_the_start() -> None:
    texts = random_prompts(200, default_rng(0))
    assert len({text.split()[0] for text in texts}) > 190


async def test_two_servers_are_compared_on_every_route_with_goals_for_their_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "stock_spec", lambda _: fake_spec())
    plan = ComparisonPlan(BurstTraffic(streams=4, tokens=8), rounds=2, turns=1)
    with StepProgress() as progress:
        report = await stock_against_itself(SETUP, plan, tmp_path, progress)
    ratios = {metric.name: metric.goal for metric in report.metrics if metric.unit == "ratio"}
    assert list(ratios)[::3] == [
        f"{route}: output throughput, stock again / stock" for route in ("base", "tone", "intent", "mixed")
    ]
    assert set(ratios.values()) == {"at least 0.97", "at most 1.05"}
    assert len(report.rounds) == 2 * 4
    assert all(metric.spread.minimum > 0 for metric in report.metrics)


async def test_a_server_that_brings_too_few_tokens_ends_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "stock_spec", lambda _: fake_spec("short"))
    plan = ComparisonPlan(BurstTraffic(streams=2, tokens=8), rounds=1, turns=1)
    with StepProgress() as progress, pytest.raises(BurstFailedError, match="7 tokens, expected 8"):
        await stock_against_itself(SETUP, plan, tmp_path, progress)
