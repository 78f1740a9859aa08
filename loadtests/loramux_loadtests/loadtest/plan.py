"""The planned requests of a scenario: time, route and prompt of each."""

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from numpy.random import default_rng

from loramux_loadtests.loadtest.arrivals import Trace
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.prompts import ChatPrompt, InputOptions, PromptSource
from loramux_loadtests.loadtest.rows import Phase
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.trace import TraceRequest, at_rate, read_trace

WARM_UP_PROMPTS = 1 << 40
"""First prompt number of the warm-up: no load gets that far, so its prompts are not in the prefix cache."""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One planned request."""

    number: int
    phase: Phase
    at: float
    """Seconds after the start of the load."""
    route: str
    prompt: ChatPrompt
    cold: bool = False


class RequestPlan:
    """All requests of one run of a scenario, equal for equal seeds on every server."""

    def __init__(self, scenario: Scenario, seed: int, *, tokens_per_number: float | None = None) -> None:
        self.scenario, self.seed = scenario, seed
        known = {} if tokens_per_number is None else {"tokens_per_number": tokens_per_number}
        self._prompts = PromptSource(_with_corpus(scenario), scenario.output, seed, **known)
        arrivals = scenario.arrivals
        self._trace = read_trace(scenario.find_file(arrivals.file)) if isinstance(arrivals, Trace) else None
        if self._trace and arrivals.rate:
            self._trace = at_rate(self._trace, arrivals.rate)
        self._cold_tracker = ColdTracker(_host_capacity(scenario))

    @property
    def routes(self) -> list[str]:
        """All routes that may be requested, without repetition."""
        recorded = [line.route for line in self._trace or () if line.route]
        mixed = [] if self._trace and len(recorded) == len(self._trace) else self.scenario.mix.routes
        return list(dict.fromkeys([*mixed, *recorded, *self._warm_up_routes]))

    @property
    def _warm_up_routes(self) -> Sequence[str]:
        return self.scenario.warm_up.routes if self.scenario.warm_up.requests else ()

    def warm_up(self) -> list[PlannedRequest]:
        """Return the requests before the load, which have no scheduled times."""
        routes = itertools.islice(itertools.cycle(self._warm_up_routes or (BASE,)), self.scenario.warm_up.requests)
        return [
            PlannedRequest(
                n, "warm-up", 0.0, route, self._prompts.prompt(WARM_UP_PROMPTS + n), self._cold_tracker.record(route)
            )
            for n, route in enumerate(routes)
        ]

    def load(self) -> Iterator[PlannedRequest]:
        """Yield the requests of the load in order. Call it once per plan."""
        requested: Counter[str] = Counter()
        for number, line in enumerate(self._lines()):
            route = line.route or BASE
            prompt = self._prompts.prompt(requested[route], line.input_tokens, line.output_tokens)
            requested[route] += 1
            yield PlannedRequest(number, "load", line.at, route, prompt, self._cold_tracker.record(route))

    def _lines(self) -> Iterator[TraceRequest]:
        routes = self.scenario.mix.draw(default_rng([self.seed, 1]))
        coming = self._recorded(routes) if self._trace else self._synthetic(routes)
        end = float("inf") if self.scenario.duration is None else self.scenario.duration
        return itertools.islice(itertools.takewhile(lambda line: line.at < end, coming), self.scenario.requests)

    def _synthetic(self, routes: Iterator[str]) -> Iterator[TraceRequest]:
        arrivals = self.scenario.arrivals
        assert not isinstance(arrivals, Trace)  # noqa: S101 - for the type checker
        times = arrivals.times(default_rng([self.seed, 0]))
        return (TraceRequest(at, route) for at, route in zip(times, routes, strict=False))

    def _recorded(self, routes: Iterator[str]) -> Iterator[TraceRequest]:
        for line in self._trace or ():
            yield line if line.route else TraceRequest(line.at, next(routes), line.input_tokens, line.output_tokens)


class ColdTracker:
    """Least-recently-used record of the adapters that the server should have in host memory; the others are cold.

    `capacity` is the number of adapters in host memory; with None, each adapter is cold once. The base never is cold.
    """

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._recent: OrderedDict[str, None] = OrderedDict()

    def record(self, route: str) -> bool:
        """Record a request for `route`, and return whether the adapter was cold."""
        if route == BASE:
            return False
        cold = route not in self._recent
        self._recent[route] = None
        self._recent.move_to_end(route)
        if self._capacity is not None and len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
        return cold


def _with_corpus(scenario: Scenario) -> InputOptions:
    corpus = scenario.input.corpus
    return scenario.input.model_copy(update={"corpus": scenario.find_file(corpus)}) if corpus else scenario.input


def _host_capacity(scenario: Scenario) -> int | None:
    value = scenario.server.engine.get("max_cpu_loras")
    return value if isinstance(value, int) else None
