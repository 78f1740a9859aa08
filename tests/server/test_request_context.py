"""Exactly one usage record per request, in whatever order its parts end."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loramux_server.auth import ANONYMOUS, Principal, Scope
from loramux_server.errors import ModelNotFound
from loramux_server.metering.usage_record import Operation, Outcome, Route, RunStats, UsageRecord
from loramux_server.request_context import RequestContext, Run

ADAPTER = Route("tone", "3f9c2ab01d44")


@dataclass
class KeptMeter:
    begun: list[Route] = field(default_factory=list)
    records: list[UsageRecord] = field(default_factory=list)

    def begin(self, route: Route) -> None:
        self.begun.append(route)

    def record(self, record: UsageRecord) -> None:
        self.records.append(record)


def chat(meter: KeptMeter) -> RequestContext:
    return RequestContext("req_1", Operation.CHAT, meter)


class RequestsLife(RuleBasedStateMachine):
    """Runs start and end, the response closes; invalid calls are refused and change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = KeptMeter()
        self.context = chat(self.meter)
        self.open: list[Run] = []
        self.finished: list[Run] = []
        self.tokens = 0
        self.closed = False

    @precondition(lambda self: not self.closed)
    @rule()
    def begin(self) -> None:
        self.open.append(self.context.begin_run(ADAPTER))

    @precondition(lambda self: self.closed)
    @rule()
    def begin_after_the_end(self) -> None:
        with pytest.raises(RuntimeError):
            self.context.begin_run(ADAPTER)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 100))
    def finish(self, data: st.DataObject, tokens: int) -> None:
        run = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        run.finish(RunStats(output_tokens=tokens))
        self.tokens += tokens
        self.finished.append(run)

    @precondition(lambda self: self.finished)
    @rule(data=st.data())
    def finish_again(self, data: st.DataObject) -> None:
        with pytest.raises(RuntimeError):
            data.draw(st.sampled_from(self.finished)).finish(RunStats(output_tokens=1))

    @rule()
    def close(self) -> None:
        if self.closed:
            with pytest.raises(RuntimeError):
                self.context.close(500, Outcome.FAILED)
        else:
            self.context.close(200, Outcome.OK)
            self.closed = True

    @invariant()
    def one_record_as_soon_as_nothing_is_open_and_no_sooner(self) -> None:
        assert len(self.meter.records) == (self.closed and not self.open)
        for record in self.meter.records:
            assert (record.status, record.outcome, record.stats.output_tokens) == (200, Outcome.OK, self.tokens)
            assert record.route == (ADAPTER if self.finished else None)

    @invariant()
    def the_begin_is_told_once(self) -> None:
        assert self.meter.begun == ([ADAPTER] if self.open or self.finished else [])


RequestsLife.TestCase.settings = settings(stateful_step_count=20)
TestRequestsLife = RequestsLife.TestCase


def test_the_record_has_the_caller_and_times_since_the_requests_arrival() -> None:
    meter = KeptMeter()
    context = chat(meter)
    context.principal = Principal("key_1", frozenset({Scope.INFER}))
    run = context.begin_run(ADAPTER)
    run.started = context.started + 2.0
    context.close(200, Outcome.OK)
    run.finish(RunStats(first_token=0.5, last_token=1.5))
    (record,) = meter.records
    assert (record.request_id, record.key_id, record.error) == ("req_1", "key_1", None)
    assert (record.stats.first_token, record.stats.last_token) == pytest.approx((2.5, 3.5))


def test_a_refused_request_leaves_a_record_with_the_reason_and_no_route() -> None:
    meter = KeptMeter()
    context = chat(meter)
    context.refusal = ModelNotFound("nobody")
    context.close(404, Outcome.REFUSED)
    (record,) = meter.records
    assert (record.route, record.key_id, record.error) == (None, None, "model_not_found")


def test_a_request_without_an_operation_creates_no_record() -> None:
    meter = KeptMeter()
    context = RequestContext("req_1", None, meter)
    context.begin_run(ADAPTER).finish(RunStats())
    context.close(200, Outcome.OK)
    assert (meter.begun, meter.records) == ([], [])


@pytest.mark.parametrize(
    ("principal", "user", "split_key"),
    [
        (None, None, None),
        (ANONYMOUS, None, None),  # everybody, who must not all end up on one side of a split
        (Principal("key_1", frozenset({Scope.INFER})), None, "key_1"),
        (Principal("key_1", frozenset({Scope.INFER})), "ann", "ann"),
        (ANONYMOUS, "ann", "ann"),
    ],
)
def test_a_split_gives_the_same_version_to_the_clients_user_or_else_to_the_keys_holder(
    principal: Principal | None, user: str | None, split_key: str | None
) -> None:
    request = chat(KeptMeter())
    request.principal, request.end_user = principal, user
    assert request.split_key == split_key


def test_a_request_is_charged_to_its_account_instead_of_its_callers_key() -> None:
    meter = KeptMeter()
    context = chat(meter)
    context.principal, context.charge_to = Principal("key_1", frozenset({Scope.INFER})), "experiment:tone"
    context.close(200, Outcome.OK)
    assert meter.records[0].key_id == "experiment:tone"
