"""Errors and headers of limits, in OpenAI's format."""

import pytest

from loramux_server.errors import InsufficientQuota, RateLimited
from loramux_server.limits.account import Excess, Standing
from loramux_server.limits.limit import Subject, SubjectKind
from loramux_server.limits.refusal import limit_error, standing_headers

KEY = Subject(SubjectKind.KEY, "key_1")


def test_a_rate_that_is_reached_says_when_to_try_again() -> None:
    error = limit_error(KEY, Excess("tokens_per_minute", 100, 90, 20, 6.2))
    assert isinstance(error, RateLimited)
    assert (error.status, error.type, error.code) == (429, "tokens", "rate_limit_exceeded")
    assert error.headers == {"retry-after": "7"}
    assert error.message == (
        "Rate limit reached for key key_1: tokens per minute: limit 100, used 90, requested 20. Try again in 7s."
    )


def test_a_spent_budget_is_not_retried() -> None:
    error = limit_error(KEY, Excess("usd_per_day", 1_500_000_000, 1_499_999_999, 2, 7200.5, is_spent=True))
    assert isinstance(error, InsufficientQuota)
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.headers == {"retry-after": "7201", "x-should-retry": "false"}
    assert "limit $1.5, used $1.499999999, requested $0.000000002" in error.message
    assert "2h0m1s" in error.message


def test_a_budget_with_something_left_is_not_called_used_up() -> None:
    error = limit_error(KEY, Excess("tokens_per_day", 100, 60, 50, 10.0, is_spent=True))
    assert isinstance(error, InsufficientQuota)
    assert "has less left than the request may need: tokens per day: limit 100, used 60, requested 50" in error.message


def test_a_request_that_no_budget_could_ever_pay_is_too_large() -> None:
    error = limit_error(KEY, Excess("tokens_per_day", 100, 0, 200, 10.0, is_spent=True, is_too_large=True))
    assert isinstance(error, RateLimited)
    assert error.headers == {"x-should-retry": "false"}
    assert "lower max_tokens" in error.message


def test_who_may_send_no_requests_is_told_so() -> None:
    error = limit_error(KEY, Excess("concurrent_requests", 0, 0, 1, 1.0, is_too_large=True))
    assert error.message == "key key_1 may send no requests: concurrent requests: limit 0."


def test_a_request_that_never_fits_is_not_retried() -> None:
    error = limit_error(KEY, Excess("tokens_per_minute", 100, 0, 101, 60.0, is_too_large=True))
    assert error.headers == {"x-should-retry": "false"}
    assert "max_tokens" in error.message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (59.9994, "59.999s"), (360, "6m0s"), (7500, "2h5m0s")],
)
def test_the_headers_are_of_the_limit_with_least_left(seconds: float, text: str) -> None:
    standings = [Standing("requests", 60, 50, 10), Standing("requests", 6, 3, seconds), Standing("tokens", 9, 8, 2)]
    headers = {name.decode(): value.decode() for name, value in standing_headers(standings)}
    assert headers == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": text,
        "x-ratelimit-limit-tokens": "9",
        "x-ratelimit-remaining-tokens": "8",
        "x-ratelimit-reset-tokens": "2s",
    }
    assert standing_headers([]) == []
