import pytest

from loramux_adapters.evaluation.token_prices import PriceList
from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.prices import load_usd
from loramux_loadtests.loadtest.summary import (
    SummaryOptions,
    client_health,
    drift,
    load_seconds,
    split_windows,
    summarize_groups,
    summarize_routes,
    summarize_rows,
    without_warm_up,
)
from loramux_loadtests.loadtest.vllm_keys import max_concurrency, vllm_result
from tests.helpers.load_rows import failed, row


def test_rates_and_tokens_count_answers_alone() -> None:
    rows = [row(), row(number=1), failed(number=2), failed("timeout", number=3), failed(number=4)]
    summary = summarize_rows(rows, 4.0, SummaryOptions(parse_goal("ttft_p50<0.6")))
    assert (summary.requests, summary.completed, summary.failed) == (5, 2, 3)
    assert summary.errors == {"http 500": 2, "timeout": 1}
    assert (summary.rate, summary.goodput, summary.output_rate) == (0.5, 0.5, 2.5)
    assert (summary.input_tokens, summary.cached_tokens, summary.output_tokens) == (20, 8, 10)
    assert summary.times["ttft"]["p50"].estimate == 0.5
    assert summary.usd is None


def test_answers_shorter_than_requested_are_counted_where_lengths_are_fixed() -> None:
    rows = [row(wanted_tokens=5), row(wanted_tokens=6)]
    assert summarize_rows(rows, 1.0, SummaryOptions()).shorter == 1
    assert summarize_rows(rows, 1.0, SummaryOptions(fixed_lengths=False)).shorter == 0


def test_groups_separate_adapters_and_cold_from_warm_ones() -> None:
    rows = [row(), row(route="a", cold=True), row(route="a"), row(route="b", cold=True)]
    groups = summarize_groups(rows, SummaryOptions())
    assert {name: summary.requests for name, summary in groups.items()} == {
        "all": 4,
        "all adapters": 3,
        "adapters, cold": 2,
        "adapters, warm": 1,
    }
    assert list(summarize_groups([row()], SummaryOptions())) == ["all"]


@pytest.mark.parametrize(("over", "during", "rate"), [(8.0, 4, 1.0), (99.0, 6, 1.0)])
def test_requests_during_a_job_are_a_group(over: float, during: int, rate: float) -> None:
    rows = [row(scheduled=float(at), sent=float(at), last=at + 3.0) for at in range(10)]
    groups = summarize_groups(rows, SummaryOptions(), (4.0, over))
    assert (groups["before the job"].requests, groups["before the job"].rate) == (4, 0.25)  # answered at 3
    assert (groups["during the job"].requests, groups["during the job"].rate) == (during, rate)


def test_routes_are_in_order_with_the_base_first() -> None:
    rows = [row(number=2, route="b"), row(number=0, route="a"), row(number=1)]
    assert list(summarize_routes(rows, SummaryOptions())) == ["base", "a", "b"]


def test_cost_follows_the_price_list() -> None:
    prices = PriceList.model_validate(
        {
            "base": {"input": 1, "cached": 0.5, "output": 2},
            "adapter": {"multiplier": 2},
            "adapters": {"own": {"multiplier": 9, "tokens": {"output": 1}}},
            "gpu_hour": 3.6,
            "gpus": 2,
            "decode_weight": 4,
        }
    )
    base = (6 * 1 + 4 * 0.5 + 5 * 2) / 1e6
    assert load_usd(prices, [row()]) == pytest.approx(base)
    assert load_usd(prices, [row(route="a@123")]) == pytest.approx(2 * base)
    assert load_usd(prices, [row(route="own@123")]) == pytest.approx(5e-6)
    assert prices.machine_usd(500) == pytest.approx(1.0)


def test_drift_compares_the_first_and_the_last_whole_window() -> None:
    rows = [row(scheduled=at, sent=at, first=at + 0.1 * (1 + at // 10), last=at + 3) for at in range(30)]
    parts = split_windows([*rows, row(scheduled=30.0, sent=30.0, first=99.0, last=99.0)], 10.0)
    assert [(part.begin, part.requests, round(part.ttft or 0, 3)) for part in parts] == [
        (0.0, 10, 0.1),
        (10.0, 10, 0.2),
        (20.0, 10, 0.3),
        (30.0, 1, 69.0),
    ]
    assert drift(parts) == pytest.approx(3.0)
    assert drift(parts[:1]) is None


def test_windows_count_errors_and_stand_without_an_answer() -> None:
    [part] = split_windows([failed(), failed()], 60.0)
    assert (part.errors, part.ttft) == (2, None)
    assert drift([part, part]) is None


def test_a_late_or_busy_client_has_a_warning() -> None:
    punctual = [row(scheduled=1.0, sent=1.001)] * 100
    assert client_health(punctual, 0.5).warning is None
    assert "late" in str(client_health([*punctual, *[row(scheduled=1.0, sent=1.1)] * 5], 0.5).warning)
    assert "core" in str(client_health(punctual, 0.95).warning)


def test_a_load_lasts_until_its_last_answer_however_long_others_were_waited_for() -> None:
    rows = without_warm_up([row(last=9.0), failed("abandoned", last=129.0), row(phase="warm-up", last=99.0)])
    assert load_seconds(rows) == 9.0


def test_a_server_that_stops_answering_has_the_time_of_the_whole_load() -> None:
    rows = [row(last=9.0), *(failed("timeout", scheduled=float(at), last=at + 600.0) for at in range(10, 60))]
    assert load_seconds(rows) == 59.0


def test_figures_have_vllms_names_and_milliseconds() -> None:
    rows = [
        row(sent=1.5, first=2.0, last=4.0, output_tokens=5),
        row(sent=1.5, first=3.0, last=3.0, output_tokens=1),
        failed(),
    ]
    figures = vllm_result(rows, summarize_rows(rows, 4.0, SummaryOptions()))
    assert (figures["completed"], figures["failed"], figures["request_throughput"]) == (2, 1, 0.5)
    assert (figures["mean_ttft_ms"], figures["median_tpot_ms"], figures["p99_tpot_ms"]) == (1000, 500, 500)
    assert figures["mean_e2el_ms"] == 2000
    assert figures["request_goodput"] is None
    assert (figures["output_throughput"], figures["total_token_throughput"]) == (1.5, 6.5)


def test_the_maximum_concurrency_does_not_count_one_that_ends_as_another_begins() -> None:
    assert max_concurrency([row(sent=0.0, last=1.0), row(sent=1.0, last=2.0), row(sent=1.5, last=3.0)]) == 2
