"""Allocates the cost of the engine's time to the requests that used it; pure, time is an argument."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

NANODOLLARS = 10**9
_NANOSECONDS_PER_HOUR = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class ProcessedTokens:
    """The tokens that the engine has processed for a run so far."""

    prefill: int = 0
    """Prompt tokens that were not in the prefix cache."""
    decode: int = 0
    """Generated tokens."""


@dataclass(eq=False, slots=True)
class CostShare:
    """A request's share of the engine's cost; each allocation adds to it."""

    nanodollars: int = 0


@dataclass(eq=False, slots=True)
class ActiveRun:
    """A run in the engine, the share that it adds to, and a function that returns its processed tokens so far."""

    cost_share: CostShare
    processed_tokens: Callable[[], ProcessedTokens]
    allocated_work: int = 0
    """Weighted tokens that earlier allocations covered."""


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
    """Splits the cost of busy engine time among the runs, by the weighted tokens since the last allocation.

    Times are nanoseconds of a monotonic clock. The engine is busy while at least one run is active. All amounts are
    whole nano-dollars and none is lost: the shares of the requests, `unallocated` and the idle cost add up to the cost
    of the time, with a total error of at most two nano-dollars. Starting and ending a run take O(1); an allocation
    takes O(runs that were active since the last one).

    Prefill tokens are known with the first output token, so the time of a long prefill is allocated then.
    """

    nanodollars_per_hour: int
    prefill_weight: int
    decode_weight: int
    started_at: int
    _active: set[ActiveRun] = field(init=False, default_factory=set)
    _ended: list[ActiveRun] = field(init=False, default_factory=list)
    _advanced_to: int = field(init=False)
    _busy_ns: int = field(init=False, default=0)
    _idle_ns: int = field(init=False, default=0)
    _allocated_to: int = field(init=False)
    _allocated_busy_ns: int = field(init=False, default=0)
    _allocated_busy_cost: int = field(init=False, default=0)
    _allocated_idle_cost: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._advanced_to = self._allocated_to = self.started_at

    def start_run(self, cost_share: CostShare, processed_tokens: Callable[[], ProcessedTokens], now: int) -> ActiveRun:
        """Add a run that starts to use the engine at `now`."""
        self._advance(now)
        run = ActiveRun(cost_share, processed_tokens)
        self._active.add(run)
        return run

    def end_run(self, run: ActiveRun, now: int) -> None:
        """End a run at `now`; its share is complete after the next allocation."""
        self._advance(now)
        self._active.remove(run)
        self._ended.append(run)

    def allocate(self, now: int) -> EngineTime:
        """Allocate the cost of busy time since the last allocation; returns the period since then."""
        self._advance(now)
        idle = self._cost(self._idle_ns) - self._allocated_idle_cost
        self._allocated_idle_cost += idle
        seconds, self._allocated_to = (now - self._allocated_to) / 1e9, now
        busy_seconds, self._allocated_busy_ns = (self._busy_ns - self._allocated_busy_ns) / 1e9, self._busy_ns
        return EngineTime(seconds, busy_seconds, self._allocate_busy_time(), idle)

    @property
    def unallocated(self) -> int:
        """Nano-dollars of busy time without processed tokens yet."""
        return self._cost(self._busy_ns) - self._allocated_busy_cost

    def _advance(self, now: int) -> None:
        if self._active:
            self._busy_ns += now - self._advanced_to
        else:
            self._idle_ns += now - self._advanced_to
        self._advanced_to = now

    def _allocate_busy_time(self) -> int:
        """Allocate `unallocated` to the runs with new tokens; returns the allocated nano-dollars."""
        runs = [*self._active, *self._ended]
        self._ended.clear()
        new_work = [self._weighted(run.processed_tokens()) - run.allocated_work for run in runs]
        if not any(new_work):
            if self._active or not runs:
                return 0  # allocated when an active run reports tokens or ends
            new_work = [1] * len(runs)  # all ended without a token: equal shares
        amount = self.unallocated
        for run, part, work in zip(runs, split_proportionally(amount, new_work), new_work, strict=True):
            run.cost_share.nanodollars += part
            run.allocated_work += work
        self._allocated_busy_cost += amount
        return amount

    def _weighted(self, tokens: ProcessedTokens) -> int:
        return tokens.prefill * self.prefill_weight + tokens.decode * self.decode_weight

    def _cost(self, nanoseconds: int) -> int:
        return nanoseconds * self.nanodollars_per_hour // _NANOSECONDS_PER_HOUR


def split_proportionally(amount: int, weights: Sequence[int]) -> list[int]:
    """Split `amount` into integers in proportion to `weights` (not all zero); they add up to it exactly."""
    ends = [amount * end // sum(weights) for end in accumulate(weights)]
    return [end - start for start, end in pairwise([0, *ends])]
