"""Two servers with the same base, adapters, arguments and traffic, and the ratios between them.

Both are up all the time, for an idle engine that has settled uses next to no CPU, and short bursts load them in turn,
now the one first and now the other: what slows the machine for longer than a burst slows both alike.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from numpy.random import default_rng

from benchmarks.bursts import Burst, Traffic, burst, compare
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import paired_ratio, spread
from loramux_loadtests.client import Client
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import ServerSpec, Setup, loramux, register, running, stock

WARM_UP_TOKENS = 8


class Measure(NamedTuple):
    """A field of `Burst`, and the goal for its ratio of loramux to stock."""

    field: str
    words: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None


MEASURES = (
    Measure("throughput", "output throughput", "tokens/s", at_least=0.97),
    Measure("ttft", "median time to first token", "s", at_most=1.05),
    Measure("tpot", "median time per output token", "s", at_most=1.05),
)


METERING = (MEASURES[0]._replace(at_least=0.99), *(measure._replace(at_most=None) for measure in MEASURES[1:]))
"""Metering is off the token path, so throughput is what it could cost."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: every round loads each server `turns` times on every route."""

    traffic: Traffic
    rounds: int
    turns: int
    seed: int = 0


@dataclass(frozen=True)
class Round:
    """What each server, by its name, did with one route's bursts in one round."""

    route: str
    bursts: Mapping[str, Burst]


async def loramux_against_stock(setup: Setup, plan: Plan, scratch: Path, steps: Steps) -> Report:
    """The overhead of loramux: its throughput and latencies over those of stock vLLM."""
    return await _report(
        setup, plan, {"loramux": loramux(setup, scratch / "data"), "stock": stock(setup)}, scratch, steps
    )


async def stock_against_itself(setup: Setup, plan: Plan, scratch: Path, steps: Steps) -> Report:
    """Two stock servers, whose ratios would all be 1 on a machine without noise: how far the method can be trusted."""
    return await _report(setup, plan, {"stock again": stock(setup), "stock": stock(setup)}, scratch, steps)


async def metered_against_unmetered(setup: Setup, plan: Plan, scratch: Path, steps: Steps) -> Report:
    """What counting, charging and the ledger cost: loramux with them over loramux without."""
    off = loramux(replace(setup, environment={**setup.environment, "LORAMUX_METERING": "false"}), scratch / "off")
    specs = {"metered": loramux(setup, scratch / "on"), "unmetered": off}
    return await _report(setup, plan, specs, scratch, steps, METERING)


async def _report(
    setup: Setup,
    plan: Plan,
    specs: Mapping[str, ServerSpec],
    scratch: Path,
    steps: Steps,
    measures: Sequence[Measure] = MEASURES,
) -> Report:
    routes = _routes(setup)
    steps.expect(len(specs) + len(routes) * (1 + plan.rounds))
    async with serving(specs, setup.adapters, scratch, steps) as clients:
        rounds = await _measure(clients, routes, plan, steps)
    ours, theirs = clients
    return Report(
        title=f"Overhead: {ours} against {theirs}",
        explanation=f"{plan.traffic.streams} streams at once, {plan.traffic.tokens} output tokens each. "
        f"A ratio is {ours} over {theirs} within one round; a median within a round is over all its streams.",
        findings=[*_ratios(rounds, ours, theirs, measures), *_absolutes(rounds)],
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
async def serving(
    specs: Mapping[str, ServerSpec], adapters: Mapping[str, Path], scratch: Path, steps: Steps
) -> AsyncIterator[dict[str, Client]]:
    """Clients of all the servers, which are up at the same time and have the adapters."""
    async with AsyncExitStack() as stack:
        clients = {}
        for name, spec in specs.items():
            steps.begin(f"starting {name}")
            server = await stack.enter_async_context(running(spec, scratch / f"{name}.log"))
            if spec.name == "loramux":
                await register(server.url, adapters)
            clients[name] = await stack.enter_async_context(Client(server.url))
        yield clients


def _routes(setup: Setup) -> dict[str, list[str]]:
    """For each route in the report, the models that its streams ask for in turn."""
    models = [setup.base.name, *setup.adapters]
    return {"base": models[:1], **{name: [name] for name in setup.adapters}, "mixed": models}


async def _measure(
    clients: Mapping[str, Client], routes: Mapping[str, Sequence[str]], plan: Plan, steps: Steps
) -> list[Round]:
    chance = default_rng(plan.seed)
    for route, models in routes.items():
        steps.begin(f"warming up: {route}")
        for client in clients.values():
            await burst(client, models, random_prompts(plan.traffic.streams, chance), WARM_UP_TOKENS)
    rounds = []
    for number in range(plan.rounds):
        for route, models in routes.items():
            steps.begin(f"round {number + 1} of {plan.rounds}: {route}")
            order = alternating(list(clients), plan.turns, first=number % 2)
            rounds.append(Round(route, await compare(clients, order, models, plan.traffic, chance)))
    return rounds


def alternating(names: Sequence[str], turns: int, *, first: int) -> list[str]:
    """Whose burst comes when, `turns` for each: A B B A A B ... for `first` 0, B A A B B A ... for 1."""
    return [name for turn in range(turns) for name in names[:: 1 if (turn + first) % 2 == 0 else -1]]


def _ratios(rounds: Sequence[Round], ours: str, theirs: str, measures: Sequence[Measure]) -> Iterator[Finding]:
    for route, of_route in _by_route(rounds):
        for measure in measures:
            pairs = [[getattr(each.bursts[name], measure.field) for each in of_route] for name in (ours, theirs)]
            what = f"{route}: {measure.words}, {ours} / {theirs}"
            yield Finding(what, paired_ratio(*pairs), at_least=measure.at_least, at_most=measure.at_most)


def _absolutes(rounds: Sequence[Round]) -> Iterator[Finding]:
    for route, of_route in _by_route(rounds):
        for measure in MEASURES:
            for name in rounds[0].bursts:
                values = [getattr(each.bursts[name], measure.field) for each in of_route]
                yield Finding(f"{route}: {measure.words}, {name}", spread(values), measure.unit)


def _by_route(rounds: Sequence[Round]) -> list[tuple[str, list[Round]]]:
    routes = dict.fromkeys(each.route for each in rounds)
    return [(route, [each for each in rounds if each.route == route]) for route in routes]
