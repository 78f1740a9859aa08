"""What a request reserves, and of which subjects."""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest

from loramux_adapters.evaluation.token_prices import TokenPrices
from loramux_server.auth import Principal, Scope
from loramux_server.limits.account import Account, Demand, Standing
from loramux_server.limits.accounts import LimitedDemand, Settlement
from loramux_server.limits.limit import NO_LIMIT, Limit, Subject, SubjectKind
from loramux_server.limits.limiter import Limiter, RunDemand
from loramux_server.metering.pricing import FixedPrices, Prices
from loramux_server.metering.usage_record import Operation, Outcome
from loramux_server.request_context import CompositeMeter, RequestContext

KEY, PROJECT = Subject(SubjectKind.KEY, "key_1"), Subject(SubjectKind.PROJECT, "shop")
ADAPTER = Subject(SubjectKind.ADAPTER, "tone")
PRICES = FixedPrices(Prices(base=TokenPrices(input=Decimal(1), output=Decimal(2))))
CALLER = Principal("key_1", frozenset({Scope.INFER}), "shop")
RUN = RunDemand("tone", input_tokens=10, max_tokens=500, sequences=2)


class RecordedAccounts:
    """Accounts that admit everything."""

    def __init__(self) -> None:
        self.taken: list[tuple[Subject, Demand]] = []
        self.settled: list[Settlement] = []

    async def take(self, request: str, demands: Sequence[LimitedDemand]) -> Sequence[Standing]:
        self.taken.extend((demand.subject, demand.demand) for demand in demands)
        return ()

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)

    async def used(self, subject: Subject) -> Account | None:
        raise AssertionError(subject)

    async def forget(self, subjects: Callable[[Subject], bool]) -> None:
        raise AssertionError(subjects)


async def reserved(*limited: Subject, limits_answer: bool = True, runs: int = 1) -> RecordedAccounts:
    """Return what a request took whose subjects in `limited` have a limit."""
    accounts = RecordedAccounts()
    limits = dict.fromkeys(limited, Limit(requests_per_minute=5))
    limiter = Limiter(lambda subject: limits.get(subject, NO_LIMIT), accounts, PRICES, 100)
    context = RequestContext("req_1", Operation.CHAT, CompositeMeter(()), CALLER, limits_answer=limits_answer)
    await limiter.start(context)
    for _ in range(runs):
        await limiter.start_run(context, RUN)
    return accounts


async def test_a_run_reserves_its_prompt_and_the_longest_answers_that_the_client_allows() -> None:
    accounts = await reserved(KEY)
    cost = 10 * 1000 + 1000 * 2000
    assert accounts.taken == [(KEY, Demand(requests=1)), (KEY, Demand(tokens=1010, nanodollars=cost))]


async def test_without_a_maximum_it_reserves_what_the_setting_says() -> None:
    accounts = await reserved(KEY, limits_answer=False)
    assert accounts.taken[-1] == (KEY, Demand(tokens=210, nanodollars=10 * 1000 + 200 * 2000))


async def test_a_request_counts_once_for_its_adapter_however_many_runs_it_has() -> None:
    accounts = await reserved(PROJECT, ADAPTER, runs=3)
    starts = [subject for subject, demand in accounts.taken if demand.requests]
    tokens = [subject for subject, demand in accounts.taken if demand.tokens]
    assert (starts, tokens) == ([PROJECT, ADAPTER], [PROJECT, ADAPTER] * 3)


async def test_a_request_that_is_cancelled_while_it_reserves_is_settled() -> None:
    class CancelledAccounts(RecordedAccounts):
        async def take(self, request: str, demands: Sequence[LimitedDemand]) -> Sequence[Standing]:
            raise asyncio.CancelledError

    accounts = CancelledAccounts()
    limiter = Limiter(lambda _: Limit(concurrent_requests=5), accounts, PRICES, 100)
    context = RequestContext("req_1", Operation.CHAT, CompositeMeter(()), CALLER)
    with pytest.raises(asyncio.CancelledError):
        await limiter.start(context)
    context.close(0, Outcome.CANCELLED)
    assert [settlement.subjects for settlement in accounts.settled] == [(KEY, PROJECT)]


async def test_without_limits_nothing_is_reserved() -> None:
    assert (await reserved()).taken == []
