"""The scheduler: which run is handed to the engine next, and for whom the queue is full; without tasks or waiting."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol

from loramux_server.fairness.priority import Priority
from loramux_server.fairness.virtual_counters import Node, Step, VirtualCounters
from loramux_server.fairness.window import Demand, EngineWindow

OUTPUT_WEIGHT = 2.0
"""Work of a token of the answer; a token of the prompt is 1. The weights of arXiv 2401.00588."""
LIVE_WEIGHT = 100.0
"""Weight of all live work; that of batches is 1, so that they get what is left, and never nothing."""
INTERACTIVE_WEIGHT = 16.0
"""Weight of a key's interactive work among its own; between keys it changes nothing, or all would ask for it."""
LIGHT_SECONDS = 60.0
"""Seconds for which sequences are reserved after a light user was seen."""
QUEUE_ROUNDS = 4
"""Work that may wait, as a multiple of what a full engine works on, if no other bound is set."""
MEAN_OF = 32
"""Number of recent runs over which their size is averaged."""
INITIAL_TOKENS = 256


class Flow(NamedTuple):
    """Whose work a run is: runs of one flow are served in the order of their arrival."""

    key: str
    adapter: str | None
    """None for the base."""
    priority: Priority = Priority.DEFAULT


class Progress(Protocol):
    """What the engine has done for a run so far."""

    cached_tokens: int | None
    """Tokens of the prompt that it did not have to compute; None before the first token."""
    output_tokens: int
    """Tokens of all sequences."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Shares of keys and adapters relative to others', 1 unless set."""

    keys: Mapping[str, float] = field(default_factory=dict)
    adapters: Mapping[str, float] = field(default_factory=dict)

    def steps(self, flow: Flow) -> tuple[Step, ...]:
        """Return the path of a flow: live or batch, its key, its adapter."""
        is_batch, is_interactive = flow.priority is Priority.BATCH, flow.priority is Priority.INTERACTIVE
        adapter = self.adapters.get(flow.adapter or "", 1.0) * (INTERACTIVE_WEIGHT if is_interactive else 1.0)
        return (
            Step(is_batch, 1.0 if is_batch else LIVE_WEIGHT),
            Step(flow.key, self.keys.get(flow.key, 1.0)),
            Step((flow.adapter, is_interactive), adapter),
        )


@dataclass(eq=False, slots=True)
class ScheduledRun:
    """A run that waits for the engine, or is in it."""

    flow: Flow
    demand: Demand
    max_tokens: int | None
    """Tokens of each sequence, at most; None if unlimited."""
    progress: Progress
    on_granted: Callable[[], None]
    enqueued_at: float = 0.0
    waited: float = 0.0
    """Seconds in the queue."""
    is_waiting: bool = False
    is_running: bool = False
    has_started: bool = False
    is_light: bool = False
    """Whether its user had less than half of their share of the engine, and asked for no more, when it came."""
    _path: "tuple[Node[ScheduledRun], ...]" = ()
    _estimate: float = 0.0
    _charged: float = 0.0

    @property
    def work(self) -> float:
        """The work that the engine has done or is about to do: the prompt is counted at once."""
        computed = max(0, self.demand.prompt_tokens - (self.progress.cached_tokens or 0))
        return computed + OUTPUT_WEIGHT * self.progress.output_tokens


class FairScheduler:
    """Hands runs to the engine in a fair order, as many as the window has room for.

    `queue_tokens` bounds the work that waits, in tokens; None for QUEUE_ROUNDS times what a full engine works on.
    """

    def __init__(
        self,
        window: EngineWindow,
        slack: float,
        weights: Weights | None = None,
        queue_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window, self._clock, self._queue_tokens = window, clock, queue_tokens
        self._weights = weights or Weights()
        self._tree: VirtualCounters[ScheduledRun] = VirtualCounters(slack)
        self._running: set[ScheduledRun] = set()
        self._mean_output: float = INITIAL_TOKENS
        self._mean_work: float = 2 * INITIAL_TOKENS
        self._light_until = 0.0
        self._light_peak = 0
        """Most sequences that light users have asked for at a time, lately."""
        self._light_asked = self._light_running = 0
        self.last_wait = 0.0
        """Seconds that the run that was last handed over had waited: what a new one has to expect."""

    @property
    def waiting(self) -> int:
        """Number of runs that wait."""
        return self._tree.root.waiting

    @property
    def waiting_tokens(self) -> float:
        """Estimated work that waits, in tokens."""
        return self._tree.root.waiting_work

    @property
    def queue_bound(self) -> float:
        """Tokens of work that may wait."""
        return self._queue_tokens or QUEUE_ROUNDS * self._window.size.sequences * self._mean_work

    def is_full_for(self, flow: Flow) -> bool:
        """Whether the queue is full, and this flow has its share of it: so that nobody can fill it for others.

        All together, at most twice the bound can wait.
        """
        if self.waiting_tokens < self.queue_bound:
            return False
        share, steps = self.queue_bound, self._weights.steps(flow)
        for part in self._tree.shares(steps):
            share *= part
        return self._tree.waiting_work(steps) >= share

    def enqueue(self, run: ScheduledRun) -> None:
        """Add a run, which is granted as soon as its turn comes: at once if there is room and nobody waits."""
        run._path = self._tree.path(self._weights.steps(run.flow))
        output = min(run.max_tokens or self._mean_output, self._mean_output)
        run._estimate = run.demand.prompt_tokens + OUTPUT_WEIGHT * output * run.demand.sequences
        run.enqueued_at, run.is_waiting = self._clock(), True
        self._tree.add(run._path, run, run._estimate)
        if self._is_light(run):
            self._note_light(run)
        self._dispatch()

    def start(self, run: ScheduledRun) -> None:
        """Note the first token of a run in the engine: there is room for another prompt."""
        if run.is_running:
            self._note_start(run)
            self._dispatch()

    def end(self, run: ScheduledRun) -> None:
        """Remove a run that has ended in the engine, or whose client has left; does nothing if it is removed."""
        if run.is_light and (run.is_waiting or run.is_running):
            self._light_asked -= run.demand.sequences
            self._light_running -= run.demand.sequences * run.is_running
        if run.is_waiting:
            run.is_waiting = False
            self._tree.remove(run._path, run, run._estimate)
        elif run.is_running:
            self._note_start(run)
            run.is_running = False
            self._running.remove(run)
            self._charge(run)
            self._window.leave(run.demand)
            self._tree.run(run._path, -run.demand.sequences)
            self._tree.sweep(run._path)
            self._learn(run)
        else:
            return
        self._dispatch()

    def _note_start(self, run: ScheduledRun) -> None:
        if not run.has_started:
            run.has_started = True
            self._window.start(run.demand)

    def _dispatch(self) -> None:
        if not self._tree.root.waiting or self._window.is_full:
            return
        for run in self._running:
            self._charge(run)
        while not self._window.is_full and (chosen := self._tree.choose(self._fits)) is not None:
            self._grant(chosen)

    def _grant(self, run: ScheduledRun) -> None:
        self._tree.run(run._path, run.demand.sequences)
        self._tree.remove(run._path, run, run._estimate)
        self._window.enter(run.demand)
        self._running.add(run)
        run.is_waiting, run.is_running = False, True
        self._light_running += run.demand.sequences * run.is_light
        self._charge(run)
        run.waited = self.last_wait = self._clock() - run.enqueued_at
        run.on_granted()

    def _charge(self, run: ScheduledRun) -> None:
        work = run.work
        if work != run._charged:
            self._tree.charge(run._path, work - run._charged)
            run._charged = work

    def _fits(self, run: ScheduledRun) -> bool:
        return self._window.fits(run.demand, self._reserve(run))

    def _reserve(self, run: ScheduledRun) -> int:
        if run.flow.priority is Priority.BATCH:
            return self._window.size.batch_reserve
        if run.is_light or self._clock() >= self._light_until:
            return 0
        return max(0, min(self._window.size.max_reserve, self._light_peak + 1 - self._light_running))

    def _note_light(self, run: ScheduledRun) -> None:
        """Keep as many sequences free as light users have needed, and one more, until none has asked for a while."""
        run.is_light = True
        self._light_asked += run.demand.sequences
        recent = self._light_peak if run.enqueued_at < self._light_until else 0
        self._light_peak = max(recent, self._light_asked)
        self._light_until = run.enqueued_at + LIGHT_SECONDS

    def _is_light(self, run: ScheduledRun) -> bool:
        """Whether the key, or the adapter if no other key is busy, has less than half of its share of the engine."""
        for parent, node in pairwise(run._path[1:]):
            if parent.busy > 1:
                half_share = max(1, self._window.size.sequences // (2 * parent.busy))
                return node.running + node.waiting - 1 + run.demand.sequences <= half_share
        return False

    def _learn(self, run: ScheduledRun) -> None:
        """Average the size of recent runs, per sequence."""
        sequences = run.demand.sequences
        self._mean_output += (run.progress.output_tokens / sequences - self._mean_output) / MEAN_OF
        self._mean_work += (run.work / sequences - self._mean_work) / MEAN_OF
