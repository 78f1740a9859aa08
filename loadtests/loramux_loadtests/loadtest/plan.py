"""From a scenario to requests: which comes when, to which route, with which prompt."""

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from numpy.random import default_rng

from loramux_loadtests.loadtest.arrivals import Trace
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.prompts import Book, Input, Question
from loramux_loadtests.loadtest.rows import Phase
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.trace import Recorded, at_rate, read_trace

WARM_UP_PROMPTS = 1 << 40
"""The warm-up's prompts have numbers that no load comes to, so that it leaves nothing of theirs in a prefix cache."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One request of a load."""

    number: int
    phase: Phase
    at: float
    """Seconds after the load's beginning."""
    route: str
    question: Question
    cold: bool = False


class Plan:
    """All requests of one run of a scenario: equal for equal seeds, whatever server they go to."""

    def __init__(self, scenario: Scenario, seed: int, *, tokens_per_number: float | None = None) -> None:
        self.scenario, self.seed = scenario, seed
        known = {} if tokens_per_number is None else {"tokens_per_number": tokens_per_number}
        self._book = Book(_with_corpus(scenario), scenario.output, seed, **known)
        arrivals = scenario.arrivals
        self._trace = read_trace(scenario.find_file(arrivals.file)) if isinstance(arrivals, Trace) else None
        if self._trace and arrivals.rate:
            self._trace = at_rate(self._trace, arrivals.rate)
        self._lately = Lately(_places(scenario))

    @property
    def routes(self) -> list[str]:
        """All routes that may be asked for, each once."""
        recorded = [line.route for line in self._trace or () if line.route]
        mixed = [] if self._trace and len(recorded) == len(self._trace) else self.scenario.mix.routes
        return list(dict.fromkeys([*mixed, *recorded, *self._warm_up_routes]))

    @property
    def _warm_up_routes(self) -> Sequence[str]:
        return self.scenario.warm_up.routes if self.scenario.warm_up.requests else ()

    def warm_up(self) -> list[Planned]:
        """The requests before the load, which have no moment of their own."""
        routes = itertools.islice(itertools.cycle(self._warm_up_routes or (BASE,)), self.scenario.warm_up.requests)
        return [
            Planned(n, "warm-up", 0.0, route, self._book.question(WARM_UP_PROMPTS + n), self._lately.misses(route))
            for n, route in enumerate(routes)
        ]

    def load(self) -> Iterator[Planned]:
        """The requests of the load, in the order in which they come. To be walked through once."""
        asked: Counter[str] = Counter()
        for number, line in enumerate(self._lines()):
            route = line.route or BASE
            question = self._book.question(asked[route], line.input_tokens, line.output_tokens)
            asked[route] += 1
            yield Planned(number, "load", line.at, route, question, self._lately.misses(route))

    def _lines(self) -> Iterator[Recorded]:
        routes = self.scenario.mix.draw(default_rng([self.seed, 1]))
        coming = self._recorded(routes) if self._trace else self._made_up(routes)
        end = float("inf") if self.scenario.duration is None else self.scenario.duration
        return itertools.islice(itertools.takewhile(lambda line: line.at < end, coming), self.scenario.requests)

    def _made_up(self, routes: Iterator[str]) -> Iterator[Recorded]:
        arrivals = self.scenario.arrivals
        assert not isinstance(arrivals, Trace)  # noqa: S101 - for the type checker
        moments = arrivals.moments(default_rng([self.seed, 0]))
        return (Recorded(at, route) for at, route in zip(moments, routes, strict=False))

    def _recorded(self, routes: Iterator[str]) -> Iterator[Recorded]:
        for line in self._trace or ():
            yield line if line.route else Recorded(line.at, next(routes), line.input_tokens, line.output_tokens)


class Lately:
    """Which adapters were asked for last, as many as the server has `places` for: the others are cold.

    Without places every adapter is cold once. The base never is.
    """

    def __init__(self, places: int | None) -> None:
        self._places = places
        self._asked: OrderedDict[str, None] = OrderedDict()

    def misses(self, route: str) -> bool:
        """Whether `route` is cold, which this asks for now."""
        if route == BASE:
            return False
        cold = route not in self._asked
        self._asked[route] = None
        self._asked.move_to_end(route)
        if self._places is not None and len(self._asked) > self._places:
            self._asked.popitem(last=False)
        return cold


def _with_corpus(scenario: Scenario) -> Input:
    corpus = scenario.input.corpus
    return scenario.input.model_copy(update={"corpus": scenario.find_file(corpus)}) if corpus else scenario.input


def _places(scenario: Scenario) -> int | None:
    value = scenario.server.engine.get("max_cpu_loras")
    return value if isinstance(value, int) else None
