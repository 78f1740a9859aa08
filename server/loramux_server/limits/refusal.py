"""The errors of limits, as OpenAI's clients know them, and the headers that say what is left."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import ceil

from loramux_server.errors import InsufficientQuota, LoramuxError, RateLimited
from loramux_server.limits.account import Excess, Standing
from loramux_server.limits.limit import NANODOLLARS, Subject


def limit_error(subject: Subject, excess: Excess) -> LoramuxError:
    """Return the error of a request that exceeds a limit."""
    unit = excess.measure.replace("_", " ")
    numbers = f"limit {_amount(excess, excess.limit)}, used {_amount(excess, excess.used)}"
    if excess.demanded:
        numbers += f", requested {_amount(excess, excess.demanded)}"
    retry_after = max(1, ceil(excess.retry_after))
    if excess.limit == 0 and "requests" in excess.measure:
        return RateLimited(f"{subject} may send no requests: {unit}: limit 0.", type=_type(excess), is_permanent=True)
    is_used_up = excess.used >= excess.limit
    if excess.is_spent and (is_used_up or not excess.is_too_large):
        what = "is used up" if is_used_up else "has less left than the request may need"
        return InsufficientQuota(
            f"The budget of {subject} {what}: {unit}: {numbers}. It is full again in {_duration(retry_after)}.",
            retry_after=retry_after,
        )
    if excess.is_too_large:
        return RateLimited(
            f"The request is too large for the limit of {subject}: {unit}: {numbers}. "
            "Shorten the prompt or lower max_tokens.",
            type=_type(excess),
            is_permanent=True,
        )
    return RateLimited(
        f"Rate limit reached for {subject}: {unit}: {numbers}. Try again in {_duration(retry_after)}.",
        type=_type(excess),
        retry_after=retry_after,
    )


def _type(excess: Excess) -> str:
    return "requests" if "requests" in excess.measure else "tokens"


def _amount(excess: Excess, value: int) -> str:
    return f"${Decimal(value) / NANODOLLARS:f}" if excess.measure.startswith("usd") else f"{value}"


def standing_headers(standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """Return OpenAI's `x-ratelimit-*` headers: of the limit with least left, for requests and tokens each."""
    return [header for unit in ("requests", "tokens") for header in _headers(unit, standings)]


def _headers(unit: str, standings: Iterable[Standing]) -> list[tuple[bytes, bytes]]:
    least = min((one for one in standings if one.unit == unit), key=lambda one: one.remaining, default=None)
    if least is None:
        return []
    values = {"limit": f"{least.limit}", "remaining": f"{least.remaining}", "reset": _duration(least.reset)}
    return [(f"x-ratelimit-{name}-{unit}".encode(), value.encode()) for name, value in values.items()]


def _duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: 12ms, 1.5s, 6m0s, 2h5m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
