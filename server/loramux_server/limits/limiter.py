"""Limits requests: reserves what each may use at its start, and settles it at its end.

A request is reserved in two steps, each as soon as its numbers are known: that it starts, before its body is read, and
its tokens, when the engine gets the tokenized prompt. Running requests may exceed what they reserved only by what their
answers are longer than `unset_max_tokens`, for clients that set no maximum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loramux_server.auth import Principal
from loramux_server.limits.account import Demand, Standing
from loramux_server.limits.accounts import Accounts, LimitedDemand, LimitReached, Settlement
from loramux_server.limits.limit import Limit, Subject, SubjectKind
from loramux_server.limits.refusal import limit_error, standing_headers
from loramux_server.metering.pricing import PriceSource
from loramux_server.metering.usage_record import Outcome, UsageRecord
from loramux_server.request_context import RequestContext


@dataclass(frozen=True, slots=True)
class RunDemand:
    """A run that is about to start in the engine."""

    adapter: str | None
    """None for the base."""
    input_tokens: int
    max_tokens: int
    """Most tokens of each answer."""
    sequences: int = 1


@dataclass(slots=True)
class Reservation:
    """What a request has reserved; its `settle` is called once, with the request's usage record."""

    request: str
    accounts: Accounts
    prices: PriceSource
    subjects: list[Subject] = field(default_factory=list)
    standings: Sequence[Standing] = ()
    """What was left of the limits per minute."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """OpenAI's headers that say what is left of the limits per minute."""
        return standing_headers(self.standings)

    def settle(self, record: UsageRecord) -> None:
        """Replace what is reserved by what the request has used."""
        if self.subjects:
            tokens = record.stats.input_tokens + record.stats.output_tokens
            settlement = Settlement(self.request, tuple(self.subjects), tokens, cost_of(record, self.prices) or 0)
            self.accounts.settle(settlement)


def cost_of(record: UsageRecord, prices: PriceSource) -> int | None:
    """Return the cost of a request by the price list in nano-dollars, None if it has no price."""
    if record.outcome is Outcome.REFUSED:
        return 0
    stats, adapter = record.stats, record.route.adapter if record.route else None
    return prices.current.token_cost(adapter, stats.input_tokens, stats.cached_tokens, stats.output_tokens)


class Limiter:
    """Reserves for the key and the project of a request, and for its adapter; see the module."""

    def __init__(
        self,
        limit_of: Callable[[Subject], Limit],
        accounts: Accounts,
        prices: PriceSource,
        unset_max_tokens: int,
    ) -> None:
        self._limit_of, self._accounts, self._prices = limit_of, accounts, prices
        self._unset_max_tokens = unset_max_tokens
        self._requests = 0

    async def start(self, context: RequestContext) -> None:
        """Reserve the start of a request that generates.

        Raises:
            LoramuxError: a limit of the key or its project is reached.
        """
        if context.operation is None or context.principal is None:
            return
        self._requests += 1
        context.reservation = Reservation(str(self._requests), self._accounts, self._prices)
        await self._reserve(context.reservation, _subjects(context.principal), Demand(requests=1))

    async def start_run(self, context: RequestContext, run: RunDemand) -> None:
        """Reserve the tokens of a run, and the start of the request for its adapter.

        Raises:
            LoramuxError: a limit is reached.
        """
        reservation = context.reservation
        if not isinstance(reservation, Reservation) or context.principal is None:
            return  # a request of the server's own
        tokens, cost = self._most(context, run)
        subjects = _subjects(context.principal)
        if run.adapter is not None:
            adapter = Subject(SubjectKind.ADAPTER, run.adapter)
            if adapter not in reservation.subjects:
                await self._reserve(reservation, [adapter], Demand(requests=1))
            subjects.append(adapter)
        await self._reserve(reservation, subjects, Demand(tokens=tokens, nanodollars=cost))

    def _most(self, context: RequestContext, run: RunDemand) -> tuple[int, int]:
        """Return the tokens and nano-dollars to reserve: the most, as far as the client limits the answer."""
        answer = run.max_tokens if context.limits_answer else min(run.max_tokens, self._unset_max_tokens)
        output_tokens = answer * run.sequences
        cost = self._prices.current.token_cost(run.adapter, run.input_tokens, 0, output_tokens)
        return run.input_tokens + output_tokens, cost or 0

    async def _reserve(self, reservation: Reservation, subjects: Sequence[Subject], demand: Demand) -> None:
        limits = ((subject, self._limit_of(subject)) for subject in subjects)
        demands = [LimitedDemand(subject, limit, demand) for subject, limit in limits if limit.values]
        if not demands:
            return
        # Before anything is taken, so that it is settled also if the request is cancelled meanwhile.
        reservation.subjects.extend(entry.subject for entry in demands if entry.subject not in reservation.subjects)
        try:
            reservation.standings = await self._accounts.take(reservation.request, demands)
        except LimitReached as reached:
            reservation.standings = reached.standings
            raise limit_error(reached.subject, reached.excess) from reached


def _subjects(principal: Principal) -> list[Subject]:
    return [Subject(SubjectKind.KEY, principal.key_id), Subject(SubjectKind.PROJECT, principal.project)]
