from pathlib import Path
from typing import Any

from loramux_loadtests.loadtest.plan import ColdTracker, PlannedRequest, RequestPlan
from tests.helpers.load_rows import scenario

MIXED = {"names": ["base", "tone", "intent"]}


def planned(seed: int = 0, **changes: Any) -> list[PlannedRequest]:
    return list(RequestPlan(scenario(**changes), seed).load())


def test_equal_seeds_plan_equal_loads() -> None:
    assert planned(7, mix=MIXED) == planned(7, mix=MIXED)
    assert [each.at for each in planned(7)] != [each.at for each in planned(8)]


def test_requests_come_at_the_same_times_whatever_the_routes_are() -> None:
    assert [each.at for each in planned(mix=MIXED)] == [each.at for each in planned(mix={"adapters": 500})]


def test_the_nth_request_of_each_route_has_the_same_prompt() -> None:
    load = planned(mix=MIXED, requests=200)
    by_route = {route: [each.prompt for each in load if each.route == route] for route in MIXED["names"]}
    shortest = min(map(len, by_route.values()))
    assert shortest > 40
    assert by_route["base"][:shortest] == by_route["tone"][:shortest] == by_route["intent"][:shortest]
    assert len({str(question.messages) for question in by_route["base"]}) == len(by_route["base"])
    alone = [each.prompt for each in planned(requests=200)]
    assert by_route["tone"] == alone[: len(by_route["tone"])]


def test_a_load_ends_after_its_requests_or_its_duration_whichever_is_first() -> None:
    assert len(planned(requests=5)) == 5
    within = planned(requests=None, duration=2.0)
    assert 140 < len(within) < 260
    assert within[-1].at < 2.0
    assert len(planned(requests=5, duration=2.0)) == 5


def test_a_trace_sets_times_routes_and_lengths_and_the_mix_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("0,tone,,7\n1,,60\n2,base\n")
    plan = RequestPlan(
        scenario(arrivals={"process": "trace", "file": str(path)}, mix={"names": ["intent"]}, requests=None), 0
    )
    load = list(plan.load())
    assert [(each.at, each.route, each.prompt.max_tokens) for each in load] == [
        (0.0, "tone", 7),
        (1.0, "intent", 3),
        (2.0, "base", 3),
    ]
    assert plan.routes == ["intent", "tone", "base"]


def test_a_trace_can_be_played_faster(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("0\n1\n2\n")
    changed = scenario(arrivals={"process": "trace", "file": str(path)}, requests=None).with_changes(rate=4.0)
    assert [each.at for each in RequestPlan(changed, 0).load()] == [0.0, 0.25, 0.5]


def test_the_warm_up_goes_to_its_own_routes_with_prompts_of_its_own() -> None:
    plan = RequestPlan(scenario(warm_up={"requests": 3, "routes": ["base", "tone"]}), 0)
    warm_up = plan.warm_up()
    assert [(each.phase, each.route) for each in warm_up] == [
        ("warm-up", "base"),
        ("warm-up", "tone"),
        ("warm-up", "base"),
    ]
    prompts = {str(each.prompt.messages) for each in plan.load()}
    assert not prompts & {str(each.prompt.messages) for each in warm_up}
    assert plan.routes == ["base", "tone"]


def test_an_adapter_is_cold_until_it_was_requested() -> None:
    tracker = ColdTracker(None)
    assert [tracker.record(route) for route in ("a", "a", "b", "base", "a", "b")] == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_an_adapter_is_cold_again_when_others_took_its_place() -> None:
    tracker = ColdTracker(2)
    assert [tracker.record(route) for route in ("a", "b", "a", "c", "a", "b")] == [True, True, False, True, False, True]


def test_host_capacity_comes_from_the_scenarios_server() -> None:
    churning: dict[str, Any] = {"mix": {"adapters": 3, "popularity": "in turn"}, "requests": 9}
    all_cold = planned(**churning, server={"engine": {"max_cpu_loras": 2}})
    assert [each.cold for each in all_cold] == [True] * 9
    assert [each.cold for each in planned(**churning)] == [True] * 3 + [False] * 6
