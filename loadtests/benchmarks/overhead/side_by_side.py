"""Comparison of two servers with the same base, adapters, arguments and traffic.

Both run all the time, because an idle engine hardly uses the CPU. Short bursts load them in turn, in alternating order,
so that a slowdown of the machine that outlasts a burst affects both.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from numpy.random import default_rng

from benchmarks.bursts import BurstResult, BurstTraffic, run_burst, run_bursts_in_turn
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import paired_ratio, spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.servers import ServerSetup, ServerSpec, loramux_spec, register_adapters, running, stock_spec

WARM_UP_TOKENS = 8


class BurstMetric(NamedTuple):
    """A field of BurstResult, and the goal for its ratio."""

    field: str
    label: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None


BURST_METRICS = (
    BurstMetric("throughput", "output throughput", "tokens/s", at_least=0.97),
    BurstMetric("ttft", "median time to first token", "s", at_most=1.05),
    BurstMetric("tpot", "median time per output token", "s", at_most=1.05),
)


METERING_METRICS = (
    BURST_METRICS[0]._replace(at_least=0.99),
    *(measure._replace(at_most=None) for measure in BURST_METRICS[1:]),
)
"""Metering is not on the token path, so only throughput has a goal."""


@dataclass(frozen=True)
class ComparisonPlan:
    """How much is measured: each round runs `turns` bursts per server and route."""

    traffic: BurstTraffic
    rounds: int
    turns: int
    seed: int = 0


@dataclass(frozen=True)
class RouteRound:
    """The results by server for one route in one round."""

    route: str
    bursts: Mapping[str, BurstResult]


async def loramux_against_stock(
    setup: ServerSetup, plan: ComparisonPlan, scratch: Path, progress: StepProgress
) -> BenchmarkReport:
    """Compare loramux with stock vLLM."""
    return await _report(
        setup, plan, {"loramux": loramux_spec(setup, scratch / "data"), "stock": stock_spec(setup)}, scratch, progress
    )


async def stock_against_itself(
    setup: ServerSetup, plan: ComparisonPlan, scratch: Path, progress: StepProgress
) -> BenchmarkReport:
    """Compare stock vLLM with itself: without noise, all ratios would be 1. Shows the method's accuracy."""
    return await _report(setup, plan, {"stock again": stock_spec(setup), "stock": stock_spec(setup)}, scratch, progress)


async def metered_against_unmetered(
    setup: ServerSetup, plan: ComparisonPlan, scratch: Path, progress: StepProgress
) -> BenchmarkReport:
    """Compare loramux with and without metering: the cost of counting, charging and the ledger."""
    off = loramux_spec(replace(setup, environment={**setup.environment, "LORAMUX_METERING": "false"}), scratch / "off")
    specs = {"metered": loramux_spec(setup, scratch / "on"), "unmetered": off}
    return await _report(setup, plan, specs, scratch, progress, METERING_METRICS)


async def _report(
    setup: ServerSetup,
    plan: ComparisonPlan,
    specs: Mapping[str, ServerSpec],
    scratch: Path,
    progress: StepProgress,
    measures: Sequence[BurstMetric] = BURST_METRICS,
) -> BenchmarkReport:
    routes = _routes(setup)
    progress.set_total(len(specs) + len(routes) * (1 + plan.rounds))
    async with running_servers(specs, setup.adapters, scratch, progress) as clients:
        rounds = await _measure(clients, routes, plan, progress)
    ours, theirs = clients
    return BenchmarkReport(
        title=f"Overhead: {ours} relative to {theirs}",
        explanation=f"{plan.traffic.streams} concurrent streams, {plan.traffic.tokens} output tokens each. "
        f"A ratio is {ours} / {theirs} within one round; a median within a round is over all its streams.",
        metrics=[*_ratio_metrics(rounds, ours, theirs, measures), *_absolute_metrics(rounds)],
        arguments={
            **asdict(plan.traffic),
            "rounds": plan.rounds,
            "turns": plan.turns,
            **setup.engine,
            **setup.environment,
        },
        rounds=[asdict(each) for each in rounds],
    )


@asynccontextmanager
async def running_servers(
    specs: Mapping[str, ServerSpec], adapters: Mapping[str, Path], scratch: Path, progress: StepProgress
) -> AsyncIterator[dict[str, ChatClient]]:
    """Start all servers, register the adapters, and yield a client per server."""
    async with AsyncExitStack() as stack:
        clients = {}
        for name, spec in specs.items():
            progress.begin(f"starting {name}")
            server = await stack.enter_async_context(running(spec, scratch / f"{name}.log"))
            if spec.name == "loramux":
                await register_adapters(server.url, adapters)
            clients[name] = await stack.enter_async_context(ChatClient(server.url))
        yield clients


def _routes(setup: ServerSetup) -> dict[str, list[str]]:
    """Map each route of the report to the models that its streams request in turn."""
    models = [setup.base.name, *setup.adapters]
    return {"base": models[:1], **{name: [name] for name in setup.adapters}, "mixed": models}


async def _measure(
    clients: Mapping[str, ChatClient], routes: Mapping[str, Sequence[str]], plan: ComparisonPlan, progress: StepProgress
) -> list[RouteRound]:
    rng = default_rng(plan.seed)
    for route, models in routes.items():
        progress.begin(f"warming up: {route}")
        for client in clients.values():
            await run_burst(client, models, random_prompts(plan.traffic.streams, rng), WARM_UP_TOKENS)
    rounds = []
    for number in range(plan.rounds):
        for route, models in routes.items():
            progress.begin(f"round {number + 1} of {plan.rounds}: {route}")
            order = alternating_order(list(clients), plan.turns, first=number % 2)
            rounds.append(RouteRound(route, await run_bursts_in_turn(clients, order, models, plan.traffic, rng)))
    return rounds


def alternating_order(names: Sequence[str], turns: int, *, first: int) -> list[str]:
    """Return the order of bursts, `turns` per name: A B B A A B ... for `first` 0, B A A B B A ... for 1."""
    return [name for turn in range(turns) for name in names[:: 1 if (turn + first) % 2 == 0 else -1]]


def _ratio_metrics(
    rounds: Sequence[RouteRound], ours: str, theirs: str, measures: Sequence[BurstMetric]
) -> Iterator[Metric]:
    for route, route_rounds in _by_route(rounds):
        for measure in measures:
            pairs = [[getattr(each.bursts[name], measure.field) for each in route_rounds] for name in (ours, theirs)]
            what = f"{route}: {measure.label}, {ours} / {theirs}"
            yield Metric(what, paired_ratio(*pairs), at_least=measure.at_least, at_most=measure.at_most)


def _absolute_metrics(rounds: Sequence[RouteRound]) -> Iterator[Metric]:
    for route, route_rounds in _by_route(rounds):
        for measure in BURST_METRICS:
            for name in rounds[0].bursts:
                values = [getattr(each.bursts[name], measure.field) for each in route_rounds]
                yield Metric(f"{route}: {measure.label}, {name}", spread(values), measure.unit)


def _by_route(rounds: Sequence[RouteRound]) -> list[tuple[str, list[RouteRound]]]:
    routes = dict.fromkeys(each.route for each in rounds)
    return [(route, [each for each in rounds if each.route == route]) for route in routes]
