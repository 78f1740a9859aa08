"""What a subject has used and reserved, and whether a request is within its limits; pure, time is an argument."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from loramux_server.limits.limit import NANODOLLARS, Limit

SECONDS_PER_MINUTE, SECONDS_PER_DAY = 60.0, 86_400
MAX_RETRY_SECONDS = 60.0
"""Reported when waiting will not help, because a limit is 0."""

Unit = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for: to start (`requests` is 1), or tokens and the nano-dollars that they cost at most."""

    requests: int = 0
    tokens: int = 0
    nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that a demand exceeds."""

    measure: str
    """The name of the limit."""
    limit: int
    """In requests, tokens or nano-dollars."""
    used: int
    """What is used or reserved."""
    demanded: int
    retry_after: float
    """Seconds."""
    is_spent: bool = False
    """Whether a budget has less left than is demanded, even if running requests use nothing of what they reserved."""
    is_too_large: bool = False
    """Whether the demand alone exceeds the limit, so that no waiting helps."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a limit per minute."""

    unit: Unit
    limit: int
    remaining: int
    reset: float
    """Seconds until all of it is left again."""


@dataclass(slots=True)
class Bucket:
    """An allowance per minute that refills evenly; `used` may exceed it, as answers may be longer than reserved."""

    used: float = 0.0
    at: float = 0.0
    """Unix seconds of the last refill."""

    def refill(self, limit: int | None, now: float) -> None:
        """Let time pass; a clock that was set back by more than a minute starts a new period."""
        elapsed = now - self.at
        if limit is None:
            self.used = 0.0
        elif elapsed > 0:
            self.used = max(0.0, self.used - elapsed * limit / SECONDS_PER_MINUTE)
        self.at = now if elapsed > 0 or elapsed < -SECONDS_PER_MINUTE else self.at

    def excess(self, measure: str, limit: int | None, demanded: int) -> Excess | None:
        """Return why `demanded` is too much, None if it is not; a demand of 0 needs anything to be left."""
        if limit is None or self.used + max(1, demanded) <= limit:
            return None
        missing = self.used + max(1, demanded) - limit
        wait = min(MAX_RETRY_SECONDS, missing * SECONDS_PER_MINUTE / limit) if limit else MAX_RETRY_SECONDS
        return Excess(measure, limit, round(self.used), demanded, wait, is_too_large=demanded > limit)

    def standing(self, unit: Unit, limit: int | None) -> Standing | None:
        """Return what is left, None without a limit."""
        if limit is None:
            return None
        reset = self.used * SECONDS_PER_MINUTE / limit if limit else MAX_RETRY_SECONDS
        return Standing(unit, limit, max(0, int(limit - self.used)), reset)


@dataclass(slots=True)
class Window:
    """What was used since the start of a day or month."""

    number: int = 0
    """Days or months since an origin."""
    tokens: int = 0
    nanodollars: int = 0

    def turn(self, number: int) -> None:
        """Begin window `number`, unless it has begun."""
        if number != self.number:
            self.number, self.tokens, self.nanodollars = number, 0, 0

    def add(self, tokens: int, nanodollars: int) -> None:
        """Count what a request has used."""
        self.tokens += tokens
        self.nanodollars += nanodollars


@dataclass(slots=True)
class Hold:
    """What one request has reserved, and the server that it runs on."""

    server: str
    tokens: int = 0
    nanodollars: int = 0


@dataclass(slots=True)
class Account:
    """The usage of a subject. Call `advance` before anything else."""

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    day: Window = field(default_factory=Window)
    month: Window = field(default_factory=Window)
    holds: dict[str, Hold] = field(default_factory=dict)
    """By request."""

    def advance(self, limit: Limit, now: float) -> None:
        """Let time pass until `now`, in Unix seconds."""
        self.requests.refill(limit.requests_per_minute, now)
        self.tokens.refill(limit.tokens_per_minute, now)
        self.turn(now)

    def turn(self, now: float) -> None:
        """Begin a new day or month if `now` is in one."""
        self.day.turn(day_number(now))
        self.month.turn(month_number(now))

    def excess(self, limit: Limit, demand: Demand, now: float) -> Excess | None:
        """Return the first limit that the demand exceeds, None if it is within all of them."""
        return (
            self._concurrency_excess(limit.concurrent_requests, demand.requests)
            or self._request_excess(limit, demand)
            or self.tokens.excess("tokens_per_minute", limit.tokens_per_minute, demand.tokens)
            or self._budget_excess("tokens_per_day", limit.tokens_per_day, demand, now)
            or self._budget_excess("tokens_per_month", limit.tokens_per_month, demand, now)
            or self._budget_excess("usd_per_day", _nanodollars(limit.usd_per_day), demand, now)
            or self._budget_excess("usd_per_month", _nanodollars(limit.usd_per_month), demand, now)
        )

    def _request_excess(self, limit: Limit, demand: Demand) -> Excess | None:
        if not demand.requests:
            return None
        return self.requests.excess("requests_per_minute", limit.requests_per_minute, demand.requests)

    def _concurrency_excess(self, limit: int | None, demanded: int) -> Excess | None:
        running = len(self.holds)
        if limit is None or not demanded or running + demanded <= limit:
            return None
        return Excess("concurrent_requests", limit, running, demanded, 1.0, is_too_large=not limit)

    def _budget_excess(self, measure: str, limit: int | None, demand: Demand, now: float) -> Excess | None:
        """Return why a budget is exceeded; a demand of 0 needs anything to be left."""
        if limit is None:
            return None
        unit = "tokens" if measure.startswith("tokens") else "nanodollars"
        is_daily = measure.endswith("day")
        spent = getattr(self.day if is_daily else self.month, unit)
        demanded = getattr(demand, unit)
        held = sum(getattr(hold, unit) for hold in self.holds.values())
        needed = demanded or (1 if not demand.tokens else 0)  # tokens without a price need no dollars
        if spent + held + needed <= limit:
            return None
        is_spent = spent + needed > limit  # else it is only held by running requests, which may not use it all
        wait = (_next_day(now) if is_daily else _next_month(now)) - now if is_spent else 1.0
        return Excess(measure, limit, spent + held, demanded, wait, is_spent, is_too_large=demanded > limit)

    def take(self, request: str, server: str, demand: Demand) -> None:
        """Reserve what a request demands."""
        hold = self.holds.setdefault(request, Hold(server))
        hold.tokens += demand.tokens
        hold.nanodollars += demand.nanodollars
        self.requests.used += demand.requests
        self.tokens.used += demand.tokens

    def settle(self, request: str, tokens: int, nanodollars: int) -> None:
        """Replace what a request has reserved by what it has used."""
        hold = self.holds.pop(request, None)
        reserved = hold.tokens if hold else 0
        self.tokens.used = max(0.0, self.tokens.used + tokens - reserved)
        self.day.add(tokens, nanodollars)
        self.month.add(tokens, nanodollars)

    def standings(self, limit: Limit) -> list[Standing]:
        """Return what is left of the limits per minute."""
        found = (
            self.requests.standing("requests", limit.requests_per_minute),
            self.tokens.standing("tokens", limit.tokens_per_minute),
        )
        return [standing for standing in found if standing is not None]


def day_number(now: float) -> int:
    """Return the number of days since 1970 (UTC)."""
    return int(now // SECONDS_PER_DAY)


def month_number(now: float) -> int:
    """Return the number of months since the year 0 (UTC)."""
    date = datetime.fromtimestamp(now, UTC)
    return date.year * 12 + date.month - 1


def day_start(now: float) -> float:
    """Return the Unix time of the last midnight (UTC)."""
    return float(day_number(now) * SECONDS_PER_DAY)


def month_start(now: float) -> float:
    """Return the Unix time of the start of the month (UTC)."""
    return _month_time(month_number(now))


def _next_day(now: float) -> float:
    return day_start(now) + SECONDS_PER_DAY


def _next_month(now: float) -> float:
    return _month_time(month_number(now) + 1)


def _month_time(number: int) -> float:
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()


def _nanodollars(dollars: object) -> int | None:
    return None if dollars is None else int(dollars * NANODOLLARS)  # type: ignore[operator]
