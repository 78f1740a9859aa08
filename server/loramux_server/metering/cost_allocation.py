"""What the engine's time costs, shared among those who ran in it: pure, and told what time it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

NANODOLLARS = 10**9
_NANOSECONDS_PER_HOUR = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has made the engine do so far, in tokens."""

    prefill: int = 0
    """Tokens of the prompt that were not in the prefix cache."""
    decode: int = 0
    """Tokens that were generated."""


@dataclass(eq=False, slots=True)
class Share:
    """What a request owes for the engine's time; it grows whenever the bill is settled."""

    nanodollars: int = 0


@dataclass(eq=False, slots=True)
class Stay:
    """One run in the engine: whose share it is, and how much work it has done, as it tells itself when asked."""

    share: Share
    work: Callable[[], Work]
    billed: int = 0
    """The weighed work that was billed already."""


@dataclass(frozen=True, slots=True)
class EngineTime:
    """A stretch of the engine's time, and where its cost went: to requests, or to nobody."""

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
class EngineBill:
    """Splits the cost of the engine's time: while somebody is in, by the work done since the last settlement.

    A moment is in nanoseconds of a clock that never goes back. The engine is busy while a run is in it. All amounts are
    whole nano-dollars and none is lost: what the requests owe, what is `pending` and what is idle add up to what the
    time costs, with an error of two nano-dollars in all. Entering and leaving take O(1); settling takes one step for
    each run that was in since the last time, whatever it did.

    Work is known when its tokens come, so the time of a long prefill is split when its first token is there.
    """

    nanodollars_per_hour: int
    prefill_weight: int
    decode_weight: int
    began: int
    _in: set[Stay] = field(init=False, default_factory=set)
    _left: list[Stay] = field(init=False, default_factory=list)
    _seen: int = field(init=False)
    _busy: int = field(init=False, default=0)
    _idle: int = field(init=False, default=0)
    _billed_time: int = field(init=False)
    _billed_busy: int = field(init=False, default=0)
    _billed_busy_cost: int = field(init=False, default=0)
    _billed_idle_cost: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._seen = self._billed_time = self.began

    def enter(self, share: Share, work: Callable[[], Work], now: int) -> Stay:
        """Note that a run begins to use the engine."""
        self._advance(now)
        stay = Stay(share, work)
        self._in.add(stay)
        return stay

    def leave(self, stay: Stay, now: int) -> None:
        """Note that a run is out of the engine; its share is complete after the next settlement."""
        self._advance(now)
        self._in.remove(stay)
        self._left.append(stay)

    def settle(self, now: int) -> EngineTime:
        """Share what the busy time since the last settlement costs, and return that time with what is idle."""
        self._advance(now)
        idle = self._cost(self._idle) - self._billed_idle_cost
        self._billed_idle_cost += idle
        seconds, self._billed_time = (now - self._billed_time) / 1e9, now
        busy_seconds, self._billed_busy = (self._busy - self._billed_busy) / 1e9, self._busy
        return EngineTime(seconds, busy_seconds, self._share(), idle)

    @property
    def pending(self) -> int:
        """Nano-dollars of busy time that nobody owes yet, because no work of it is known."""
        return self._cost(self._busy) - self._billed_busy_cost

    def _advance(self, now: int) -> None:
        if self._in:
            self._busy += now - self._seen
        else:
            self._idle += now - self._seen
        self._seen = now

    def _share(self) -> int:
        """Bill what is pending to those who have worked since the last time; returns how much that is."""
        stays = [*self._in, *self._left]
        self._left.clear()
        done = [self._weighed(stay.work()) - stay.billed for stay in stays]
        if not any(done):
            if self._in or not stays:
                return 0  # whoever is in will have worked when it leaves
            done = [1] * len(stays)  # they were in and got no token, but the time is theirs
        amount = self.pending
        for stay, part, work in zip(stays, split(amount, done), done, strict=True):
            stay.share.nanodollars += part
            stay.billed += work
        self._billed_busy_cost += amount
        return amount

    def _weighed(self, work: Work) -> int:
        return work.prefill * self.prefill_weight + work.decode * self.decode_weight

    def _cost(self, nanoseconds: int) -> int:
        return nanoseconds * self.nanodollars_per_hour // _NANOSECONDS_PER_HOUR


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Return whole parts of `amount` in proportion to `weights` (not all zero); they add up to it exactly."""
    ends = [amount * end // sum(weights) for end in accumulate(weights)]
    return [end - start for start, end in pairwise([0, *ends])]
