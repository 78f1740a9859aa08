"""Allocates the cost of the engine's time to the requests that used it; pure, time is an argument."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import ceil

NANODOLLARS = 10**9
WEIGHT_UNITS = 1000
"""Weights are fractions, and the allocator computes with integers: multiples of a thousandth."""
_NANOSECONDS_PER_HOUR = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Weights:
    """The work of a prompt token that the engine computes, and of a decoding step of a sequence; their ratio counts.

    A draft token of speculative decoding weighs as much as a prompt token: both are computed next to others in a step.
    """

    prefill: int
    decode: int


@dataclass(eq=False, slots=True)
class CostShare:
    """A request's share of the engine's cost; each allocation adds to it."""

    nanodollars: int = 0
    unpriced: bool = False
    """Whether it used engine time that had no price."""


@dataclass(eq=False, slots=True)
class ActiveRun:
    """A run in the engine, and the share that it adds to."""

    cost_share: CostShare
    nanoseconds: float = 0.0
    """Its part of the time of the steps since the last allocation."""


StepWork = tuple[ActiveRun, int, int]
"""A run, the prompt and draft tokens that a step computed for it, and the number of its sequences that were decoded."""


@dataclass(frozen=True, slots=True)
class EngineTime:
    """A period of engine time and its cost, split into that of requests and that of idle time."""

    seconds: float = 0.0
    busy_seconds: float = 0.0
    requests_nanodollars: int = 0
    idle_nanodollars: int = 0

    def __add__(self, other: "EngineTime") -> "EngineTime":
        return EngineTime(
            self.seconds + other.seconds,
            self.busy_seconds + other.busy_seconds,
            self.requests_nanodollars + other.requests_nanodollars,
            self.idle_nanodollars + other.idle_nanodollars,
        )


@dataclass
class EngineCostAllocator:
    """Splits the cost of busy engine time among the runs: the time of each step by the weighted work in it.

    Times are nanoseconds of a monotonic clock. The engine is busy while at least one run is active. An allocation
    covers the time up to the engine's last step, because the time since then belongs to work that is not reported yet.
    All amounts are whole nano-dollars and none is lost: the shares of the requests, `unallocated` and the idle cost add
    up to the cost of the time, with a total error of at most two nano-dollars. Starting and ending a run take O(1); a
    step takes O(runs with work in it), an allocation O(runs that were active since the last one).
    """

    nanodollars_per_hour: int | None
    """None while the engine's time has no price."""
    weights: Weights
    started_at: int
    _active: set[ActiveRun] = field(init=False, default_factory=set)
    _ended: list[ActiveRun] = field(init=False, default_factory=list)
    _advanced_to: int = field(init=False)
    _allocated_to: int = field(init=False)
    _busy_ns: int = field(init=False, default=0)
    _allocated_busy_ns: int = field(init=False, default=0)
    # Costs of all time so far, in nano-dollars * _NANOSECONDS_PER_HOUR: integers, whatever the price.
    _busy_cost: int = field(init=False, default=0)
    _busy_cost_at_step: int = field(init=False, default=0)
    _idle_cost: int = field(init=False, default=0)
    _allocated_busy: int = field(init=False, default=0)
    _allocated_idle: int = field(init=False, default=0)
    _has_unpriced_time: bool = field(init=False, default=False)
    _step_work: dict[ActiveRun, int] = field(init=False, default_factory=dict)
    """Weighted work of the newest step."""
    _step_timestamp: float = field(init=False, default=0.0)
    _step_ns: int = field(init=False, default=0)
    _accounted_ns: int = field(init=False, default=0)
    """Busy time that steps have been given."""

    def __post_init__(self) -> None:
        self._advanced_to = self._allocated_to = self.started_at

    def start_run(self, cost_share: CostShare, now: int) -> ActiveRun:
        """Add a run that starts to use the engine at `now`."""
        self._advance(now)
        run = ActiveRun(cost_share)
        self._active.add(run)
        return run

    def step(self, works: Iterable[StepWork], timestamp: float, now: int) -> None:
        """Note that the engine reported at `now` the work of a step.

        `timestamp` is the time of the step in seconds of the engine's clock. It is the same if a step is reported in
        several parts, and more exact than `now` if the API process was late.
        """
        if timestamp != self._step_timestamp:
            self._settle_step()
            self._advance(now)
            self._begin_step(timestamp)
        for run, prefill, decode in works:
            work = prefill * self.weights.prefill + decode * self.weights.decode
            self._step_work[run] = self._step_work.get(run, 0) + work

    def end_run(self, run: ActiveRun, now: int) -> None:
        """End a run at `now`, unless it has ended; its share is complete after the next allocation."""
        self._advance(now)
        if run in self._active:
            self._active.remove(run)
            self._ended.append(run)

    def allocate(self, now: int) -> EngineTime:
        """Allocate the cost of busy time since the last allocation; returns the period since then."""
        self._advance(now)
        self._settle_step()
        idle = self._idle_cost // _NANOSECONDS_PER_HOUR - self._allocated_idle
        self._allocated_idle += idle
        seconds, self._allocated_to = (now - self._allocated_to) / 1e9, now
        busy_seconds, self._allocated_busy_ns = (self._busy_ns - self._allocated_busy_ns) / 1e9, self._busy_ns
        return EngineTime(seconds, busy_seconds, self._allocate_busy_time(), idle)

    def change_prices(self, nanodollars_per_hour: int | None, weights: Weights, now: int) -> None:
        """Use this price for the time from `now` on, and these weights for allocations from now on."""
        self._advance(now)
        self.nanodollars_per_hour, self.weights = nanodollars_per_hour, weights

    @property
    def unallocated(self) -> int:
        """Nano-dollars of busy time whose work is not reported yet."""
        return self._busy_cost // _NANOSECONDS_PER_HOUR - self._allocated_busy

    def _advance(self, now: int) -> None:
        nanoseconds, self._advanced_to = now - self._advanced_to, now
        cost = nanoseconds * (self.nanodollars_per_hour or 0)
        if self._active:
            self._busy_ns += nanoseconds
            self._busy_cost += cost
            self._has_unpriced_time |= self.nanodollars_per_hour is None and nanoseconds > 0
        else:
            self._idle_cost += cost

    def _begin_step(self, timestamp: float) -> None:
        """Give the step the time since the last one: by the engine's clock, but not more than the engine was busy."""
        elapsed, busy = round((timestamp - self._step_timestamp) * 1e9), self._busy_ns - self._accounted_ns
        nanoseconds = min(elapsed, busy) if elapsed > 0 else busy  # several engines may report out of order
        self._step_ns += nanoseconds
        self._accounted_ns += nanoseconds
        self._step_timestamp = timestamp
        self._busy_cost_at_step = self._busy_cost

    def _settle_step(self) -> None:
        """Split the time of the newest step by the work in it; without any, it is added to the next step."""
        total = sum(self._step_work.values())
        if total:
            per_work = max(self._step_ns, 1) / total
            for run, work in self._step_work.items():
                run.nanoseconds += work * per_work
            self._step_ns = 0
        self._step_work.clear()

    def _allocate_busy_time(self) -> int:
        """Allocate the cost of busy time to the runs with parts of it; returns the allocated nano-dollars."""
        runs = [*self._active, *self._ended]
        self._ended.clear()
        new_work = [_take_nanoseconds(run) for run in runs]
        if not any(new_work):
            if self._active or not runs:
                return 0  # allocated when an active run works or ends
            new_work = [1] * len(runs)  # all ended without any work: equal shares
        if not self._active:
            self._busy_cost_at_step, self._accounted_ns = self._busy_cost, self._busy_ns
        amount = self._busy_cost_at_step // _NANOSECONDS_PER_HOUR - self._allocated_busy
        for run, part, work in zip(runs, split_proportionally(amount, new_work), new_work, strict=True):
            run.cost_share.nanodollars += part
            run.cost_share.unpriced |= self._has_unpriced_time and work > 0
        self._has_unpriced_time = self.nanodollars_per_hour is None and bool(self._active)  # since the last step
        self._allocated_busy += amount
        return amount


def _take_nanoseconds(run: ActiveRun) -> int:
    """Return the run's time since the last allocation, in units fine enough for the smallest part of a step."""
    taken, run.nanoseconds = run.nanoseconds, 0.0
    return ceil(taken * 1000)


def split_proportionally(amount: int, weights: Sequence[int]) -> list[int]:
    """Split `amount` into integers in proportion to `weights` (not all zero); they add up to it exactly."""
    total = sum(weights)
    ends = [amount * end // total for end in accumulate(weights)]
    return [end - start for start, end in pairwise([0, *ends])]
