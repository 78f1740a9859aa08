"""Both benchmarks with clients of simulated streams, and with real streams of fake servers (slow)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import bursts
from benchmarks.bursts import BurstFailedError
from benchmarks.churn import load_latency
from benchmarks.churn.load_latency import MAX_CPU_LORAS, measure_cold_start, measure_gaps
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport
from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.servers import ServerSetup
from tests.helpers.fake_openai_process import fake_spec, small_base

STEP_S, LOAD_S = 0.0001, 0.002


class SimulatedStreams(ChatClient):
    """Tokens at equal times, but for a pause of LOAD_S at the first request for an adapter."""

    def __init__(self, name: str, *, ends_early: bool = False) -> None:
        super().__init__(f"http://{name}")
        self.ends_early = ends_early
        self.loaded: set[str] = set()
        self.pause = 0.0

    def load(self, model: str) -> float:
        pause = LOAD_S if model not in self.loaded else 0.0
        self.loaded.add(model)
        return pause

    async def chat(self, model: str, messages: object, *, max_tokens: int, **_: object) -> ChatReply:
        first = STEP_S + (0.0 if model == "base" else self.load(model))
        self.pause = 0.0
        await asyncio.sleep(0.01 if max_tokens > 50 else 0)  # so that another request can come meanwhile
        times = [first + number * STEP_S + (self.pause if number > 10 else 0.0) for number in range(max_tokens)]
        return simulated_reply(times, max_tokens)

    async def complete(self, model: str, prompt: object, *, max_tokens: int) -> ChatReply:
        self.pause = self.load(model)
        sent = 10.0 if self.ends_early else 10 * STEP_S
        return simulated_reply([sent], max_tokens)


def simulated_reply(times: list[float], tokens: int) -> ChatReply:
    sent = 0.0 if len(times) > 1 else times[0]
    return ChatReply(True, 200, "x", 9, 0, tokens, sent, sent, times[0], times[-1], tuple(times), None, "any", "")


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimulatedStreams]:
    """The clients of both servers."""
    clients = {name: SimulatedStreams(name) for name in ("loramux", "stock")}

    @asynccontextmanager
    async def running_servers(*_: object) -> AsyncIterator[dict[str, SimulatedStreams]]:
        yield clients

    monkeypatch.setattr(load_latency, "running_servers", running_servers)
    monkeypatch.setattr(bursts, "SETTLE_SECONDS", 0)
    return clients


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The modes of the fake servers that replace both."""
    monkeypatch.setattr(bursts, "SETTLE_SECONDS", 0)
    mode = {"loramux": "halts", "stock": "halts"}
    monkeypatch.setattr(load_latency, "loramux_spec", lambda setup, data: fake_spec(mode["loramux"], "loramux"))
    monkeypatch.setattr(load_latency, "stock_spec", lambda setup: fake_spec(mode["stock"], "stock"))
    return mode


def medians(report: BenchmarkReport) -> dict[str, float]:
    return {metric.name: metric.spread.median for metric in report.metrics}


async def gaps(folder: Path, loads: int) -> BenchmarkReport:
    with StepProgress() as progress:
        return await measure_gaps(ServerSetup(small_base(folder), {}, {}, {}), folder, progress, loads=loads)


async def cold_start(folder: Path) -> BenchmarkReport:
    with StepProgress() as progress:
        return await measure_cold_start(ServerSetup(small_base(folder), {}, {}, {}), folder, progress, count=2)


def check_gaps(report: BenchmarkReport) -> None:
    assert len(report.rounds) == 2 * 2
    assert {row["server"] for row in report.rounds} == {"loramux", "stock"}
    goals = [metric.name for metric in report.metrics if metric.goal]
    assert goals == ["loramux: longest gap / median gap, adapter cold"]


def check_cold_start(report: BenchmarkReport) -> None:
    assert len(report.rounds) == 2 * 2 * (MAX_CPU_LORAS + 1)  # fewer adapters would never be evicted
    assert {metric.name for metric in report.metrics if metric.goal} == {
        "loramux: first token cold / warm, short prompt",
        "loramux: first token cold / warm, long prompt",
    }


async def test_a_gap_is_longer_while_a_cold_adapter_is_loaded(
    tmp_path: Path, clients: dict[str, SimulatedStreams]
) -> None:
    report = await gaps(tmp_path, loads=2)
    check_gaps(report)
    found = medians(report)
    for name in ("loramux", "stock"):
        assert found[f"{name}: longest gap / median gap, adapter cold"] > 10
        assert found[f"{name}: longest gap / median gap, adapter warm"] < 10


async def test_a_first_token_is_later_when_its_adapter_is_cold(
    tmp_path: Path, clients: dict[str, SimulatedStreams]
) -> None:
    report = await cold_start(tmp_path)
    check_cold_start(report)
    assert all(row["ratio"] > 5 for row in report.rounds if row["prompt"] == "short")


async def test_a_request_that_misses_the_stream_is_an_error(
    tmp_path: Path, clients: dict[str, SimulatedStreams]
) -> None:
    clients["loramux"].ends_early = True
    with pytest.raises(BurstFailedError, match="request was not within the stream"):
        await gaps(tmp_path, loads=1)


@pytest.mark.slow
async def test_the_gaps_of_real_streams_are_measured(tmp_path: Path, mode: dict[str, str]) -> None:
    report = await gaps(tmp_path, loads=2)  # how long they are depends on what else the machine does
    check_gaps(report)
    assert all(row["cold"] > 1 for row in report.rounds)


@pytest.mark.slow
async def test_the_first_tokens_of_real_streams_are_measured(tmp_path: Path, mode: dict[str, str]) -> None:
    report = await cold_start(tmp_path)
    check_cold_start(report)
    assert all(row["cold"] > 0 for row in report.rounds)


@pytest.mark.slow
async def test_a_request_that_misses_a_real_stream_is_an_error(tmp_path: Path, mode: dict[str, str]) -> None:
    mode["loramux"] = ""  # its streams end at once
    with pytest.raises(BurstFailedError, match="request was not within the stream"):
        await gaps(tmp_path, loads=1)
