import asyncio
from pathlib import Path

import pytest
from numpy.random import default_rng

from benchmarks.churn import throughput as churn
from benchmarks.churn.throughput import STREAMS, closed_loop, throughput
from benchmarks.progress import Steps
from loramux_loadtests.client import Client, Reply
from loramux_loadtests.servers import Setup
from tests.helpers.fake_openai_process import fake_spec, small_base


class Busy(Client):
    """Answers after a moment, and remembers who was asked for and how many at once."""

    def __init__(self) -> None:
        super().__init__("http://busy")
        self.chosen: list[str] = []
        self.at_once, self.most = 0, 0

    async def chat(self, model: str, messages: object, *, max_tokens: int, **_: object) -> Reply:
        self.chosen.append(model)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.002)
        self.at_once -= 1
        return Reply(True, 200, "x", 9, 0, max_tokens, 0.0, 0.0, 0.0, 1.0, (0.0, 1.0), None, model, "")


async def test_a_closed_loop_asks_for_the_models_in_turn_and_keeps_its_streams_busy() -> None:
    client = Busy()
    rate = await closed_loop(client, ["a", "b", "c"], 4 * STREAMS, default_rng(0))
    assert client.chosen == (["a", "b", "c"] * 2 * STREAMS)[: 4 * STREAMS]
    assert client.most == STREAMS
    assert 0 < rate < 4 * STREAMS * churn.TOKENS / (4 * 0.002)


async def test_every_server_is_measured_in_every_round_and_loramux_has_the_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = []
    for name in ("loramux", "stock"):

        def spec(setup: Setup, *_: object, name: str = name) -> object:
            slots.append((name, setup.engine["max_loras"], setup.engine["max_cpu_loras"]))
            return fake_spec(name=name)

        monkeypatch.setattr(churn, name, spec)
    with Steps() as steps:
        report = await throughput(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, count=3, rounds=2)
    assert sorted(slots) == [("loramux", 4, 8), ("loramux", 8, 8), ("stock", 4, 8), ("stock", 8, 8)]
    order = [row["server"] for row in report.rounds]
    assert order[4:] == order[3::-1]
    goals = {finding.what: finding.goal for finding in report.findings if finding.unit == "ratio"}
    assert len(goals) == 8
    assert {what for what, goal in goals.items() if goal} == {
        "loramux, 4 slots: throughput of 3 adapters / of 1",
        "loramux, 8 slots: throughput of 3 adapters / of 1",
    }
