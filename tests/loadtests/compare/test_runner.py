from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from loramux_loadtests.compare.answer_log import AnswerLog
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.runner import RunSettings, parse_passes, run_comparison
from tests.helpers.comparisons import PROMPTED, TUNED, TrafficLightServer, chat, comparison


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[AnswerLog]:
    with AnswerLog(tmp_path / "rows.jsonl", "a") as journal:
        yield journal


async def test_every_arm_gets_every_item_with_its_own_prompt(journal: AnswerLog) -> None:
    lights, calls = TrafficLightServer(), []
    async with lights.running() as url:
        await run_comparison(comparison(url), RunSettings(), journal, lambda: calls.append(1))
    assert len(lights.requests) == len(journal.answers) == len(calls) == 24
    texts = {arm: {row.text for row in journal.answers if row.arm == arm} for arm in (PROMPTED, TUNED)}
    assert texts == {PROMPTED: {"stop"}, TUNED: {"stop", "go"}}
    assert {row.input_tokens for row in journal.answers if row.arm == PROMPTED} == {40}
    assert all(row.ttft is not None and row.seconds >= row.ttft for row in journal.answers)
    assert all(body["temperature"] == 0 and body["max_tokens"] == 4 for body in lights.requests)
    for arm in (PROMPTED, TUNED):
        assert [turn.answers for turn in journal.batches["warm", arm]] == [4, 4, 4]
        assert all(turn.seconds > 0 for turn in journal.batches["warm", arm])


async def test_an_items_system_message_is_replaced_by_an_arms_own_and_else_sent(journal: AnswerLog) -> None:
    """T2: it was dropped for every arm."""
    lights = TrafficLightServer()
    async with lights.running() as url:
        found = comparison(url, count=2)
        items = [item._replace(messages=[*chat("system: own"), *item.messages]) for item in found.items]
        bare = found.arms[1]._replace(prompt=[])
        await run_comparison(
            found._replace(items=items, arms=[found.arms[0], bare]), RunSettings(), journal, lambda: None
        )
    sent = {(body["model"], *(message["content"] for message in body["messages"])) for body in lights.requests}
    colours = ("red 0", "green 1")
    assert sent == {("lights", "own", colour) for colour in colours} | {
        ("tiny", "rules", "red", "stop", colour) for colour in colours
    }


async def test_an_item_is_asked_with_its_tools_and_for_one_call_if_its_line_says_so(journal: AnswerLog) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    lights = TrafficLightServer()
    async with lights.running() as url:
        found = comparison(url, count=4)
        one_call = {"parallel_tool_calls": False}
        changes: list[dict[str, Any]] = [{}, one_call, {"tools": [tool]}, {"tools": [tool], **one_call}]
        items = [item._replace(**change) for item, change in zip(found.items, changes, strict=True)]
        await run_comparison(found._replace(items=items), RunSettings(), journal, lambda: None)
    sent = {body["messages"][-1]["content"]: body for body in lights.requests}
    asked = [sent[item.messages[-1]["content"]] for item in items]
    fields = [(body.get("tools"), body.get("parallel_tool_calls")) for body in asked]
    assert fields == [(None, None), (None, None), ([tool], None), ([tool], False)]


async def test_the_reason_why_an_answer_ended_is_kept(journal: AnswerLog) -> None:
    async with TrafficLightServer().running() as url:
        await run_comparison(comparison(url, count=2), RunSettings(), journal, lambda: None)
    assert {row.finish_reason for row in journal.answers} == {"stop"}


async def test_the_arms_take_turns_in_going_first_and_a_seed_repeats_the_order(tmp_path: Path) -> None:
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        lights = TrafficLightServer()
        with AnswerLog(tmp_path / f"{number}.jsonl", "a") as journal:
            async with lights.running() as url:
                await run_comparison(comparison(url), RunSettings(concurrency=1, seed=seed), journal, lambda: None)
        orders.append([(body["messages"][-1]["content"], body["model"]) for body in lights.requests])
    assert {model for _, model in orders[0][::2]} == {"tiny", "lights"}
    assert [content for content, _ in orders[0]] == [content for content, _ in orders[1]]
    assert [content for content, _ in orders[0]] != [content for content, _ in orders[2]]


async def test_an_answer_never_waits_for_another_arms_prompt(journal: AnswerLog) -> None:
    lights = TrafficLightServer(takes=0.01)
    async with lights.running() as url:
        await run_comparison(comparison(url), RunSettings(concurrency=3), journal, lambda: None)
    assert lights.concurrent_models == {("tiny",) * n for n in (1, 2, 3)} | {("lights",) * n for n in (1, 2, 3)}


async def test_a_cold_pass_salts_each_request_with_something_new(journal: AnswerLog) -> None:
    lights = TrafficLightServer()
    async with lights.running() as url:
        await run_comparison(comparison(url, count=4), RunSettings(passes=("cold", "warm")), journal, lambda: None)
    salts = [body.get("cache_salt") for body in lights.requests]
    assert len(set(salts[:8])) == 8
    assert salts[8:] == [None] * 8
    assert [row.pass_ for row in journal.answers] == ["cold"] * 8 + ["warm"] * 8


async def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    for fails_after, total in ((7, None), (1000, 24)):
        lights = TrafficLightServer(fails_after)
        with AnswerLog(tmp_path / "rows.jsonl", "a") as journal:
            kept = len(journal.answers)
            async with lights.running() as url:
                if total is None:
                    with pytest.raises(ComparisonError, match="500"):
                        await run_comparison(comparison(url), RunSettings(concurrency=1), journal, lambda: None)
                    assert 0 < len(journal.answers) <= 7
                else:
                    await run_comparison(comparison(url), RunSettings(concurrency=1), journal, lambda: None)
                    assert len(lights.requests) == total - kept
                    assert len(journal.answers) == total


async def test_a_missing_model_is_named_with_its_arm(journal: AnswerLog) -> None:
    async with TrafficLightServer(fails_after=0, status=404).running() as url:
        with pytest.raises(ComparisonError, match=r"(tuned|prompted) \((lights|tiny) at .*404 .*does not exist"):
            await run_comparison(comparison(url), RunSettings(), journal, lambda: None)


async def test_a_server_that_does_not_answer_is_an_error(journal: AnswerLog) -> None:
    with pytest.raises(ComparisonError, match="Cannot connect"):
        await run_comparison(comparison(), RunSettings(), journal, lambda: None)
    assert journal.answers == []


async def test_no_server_gets_the_key_of_another(journal: AnswerLog) -> None:
    mine, theirs = TrafficLightServer(), TrafficLightServer()
    async with mine.running() as url, theirs.running() as other:
        both = comparison(url)
        arms = [both.arms[0]._replace(api_key=SecretStr("mine")), both.arms[1]._replace(url=other)]
        await run_comparison(both._replace(arms=arms), RunSettings(), journal, lambda: None)
    assert (mine.api_keys, theirs.api_keys) == ({"Bearer mine"}, {None})


@pytest.mark.parametrize("text", ["", "hot", "cold,", "cold;warm"])
def test_passes_are_cold_and_warm(text: str) -> None:
    assert parse_passes("cold,warm") == ("cold", "warm")
    with pytest.raises(ValueError, match="expected cold, warm"):
        parse_passes(text)
