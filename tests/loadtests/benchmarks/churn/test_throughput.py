import asyncio
from pathlib import Path

import pytest
from numpy.random import default_rng

from benchmarks.churn import throughput as churn
from benchmarks.churn.throughput import STREAMS, measure_throughput, run_closed_loop
from benchmarks.progress import StepProgress
from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.servers import ServerSetup
from tests.helpers.fake_openai_process import fake_spec, small_base


class Busy(ChatClient):
    """Answers after a moment, and records the models and the concurrency of requests."""

    def __init__(self) -> None:
        super().__init__("http://busy")
        self.chosen: list[str] = []
        self.concurrency, self.max_concurrency = 0, 0

    async def chat(self, model: str, messages: object, *, max_tokens: int, **_: object) -> ChatReply:
        self.chosen.append(model)
        self.concurrency += 1
        self.max_concurrency = max(self.max_concurrency, self.concurrency)
        await asyncio.sleep(0.002)
        self.concurrency -= 1
        return ChatReply(True, 200, "x", 9, 0, max_tokens, 0.0, 0.0, 0.0, 1.0, (0.0, 1.0), None, model, "")


async def test_a_closed_loop_asks_for_the_models_in_turn_and_keeps_its_streams_busy() -> None:
    client = Busy()
    rate = await run_closed_loop(client, ["a", "b", "c"], 4 * STREAMS, default_rng(0))
    assert client.chosen == (["a", "b", "c"] * 2 * STREAMS)[: 4 * STREAMS]
    assert client.max_concurrency == STREAMS
    assert 0 < rate < 4 * STREAMS * churn.TOKENS / (4 * 0.002)


@pytest.mark.slow
async def test_every_server_is_measured_in_every_round_and_loramux_has_the_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = []
    for name in ("loramux", "stock"):

        def spec(setup: ServerSetup, *_: object, name: str = name) -> object:
            slots.append((name, setup.engine["max_loras"], setup.engine["max_cpu_loras"]))
            return fake_spec(name=name)

        monkeypatch.setattr(churn, f"{name}_spec", spec)
    with StepProgress() as progress:
        report = await measure_throughput(
            ServerSetup(small_base(tmp_path), {}, {}, {}), tmp_path, progress, count=3, rounds=2
        )
    assert sorted(slots) == [("loramux", 4, 8), ("loramux", 8, 8), ("stock", 4, 8), ("stock", 8, 8)]
    order = [row["server"] for row in report.rounds]
    assert order[4:] == order[3::-1]
    goals = {metric.name: metric.goal for metric in report.metrics if metric.unit == "ratio"}
    assert len(goals) == 8
    assert {what for what, goal in goals.items() if goal} == {
        "loramux, 4 slots: throughput of 3 adapters / of 1",
        "loramux, 8 slots: throughput of 3 adapters / of 1",
    }
