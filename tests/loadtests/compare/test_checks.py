import time

import pytest

from loramux_adapters.evaluation.items import Item
from loramux_loadtests.compare.checks import find_warnings, leaked_items
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.summary import summarize
from tests.helpers.comparisons import PROMPTED, TUNED, chat, comparison, scored_answers

WORDS = "abcdefghijklmnopqrstuvwxyz"


def codes(found: Comparison, **changes: object) -> list[str]:
    answers = [one.model_copy(update=changes) for one in scored_answers([1] * 12, [0] * 12)]
    arms = {name: [one for one in answers if one.arm == name] for name in (TUNED, PROMPTED)}
    return [warning.code for warning in find_warnings(found, arms, "accuracy")]


def test_an_item_of_the_training_file_or_of_a_prompt_is_left_out_and_named() -> None:
    found = comparison()
    items = [Item(chat(f"user: {WORDS[number:]} {number}"), "stop") for number in range(12)]
    training = [Item(chat("system: another one", f"user: {items[3].messages[0]['content'].upper()}!"), "stop")]
    prompt = chat("system: rules", f"user: {items[5].messages[0]['content']}", "assistant: stop")
    arms = [found.arms[0]._replace(prompt=prompt), found.arms[1]]
    leaking = found._replace(items=items, training=training, arms=arms)
    assert leaked_items(leaking) == {3: ("the training file", "exact"), 5: ("the prompt of “prompted”", "exact")}
    summary = summarize(leaking, scored_answers([1] * 12, [0] * 12), {})
    assert (summary.passes[-1].items, summary.left_out) == (10, [3, 5])
    [warning] = [warning for warning in summary.warnings if warning.code == "leak"]
    assert (warning.items, warning.message) == (
        (3, 5),
        "2 of 12 items are in the training file and in the prompt of “prompted”, and are left out",
    )


def test_an_item_that_is_nearly_in_the_training_file_is_left_out_and_named() -> None:
    long = " ".join(f"word{number}" for number in range(60))
    near = comparison()._replace(training=[Item(chat(f"user: {long} thanks"), "stop")])
    near = near._replace(items=[Item(chat(f"user: {long}"), "stop"), *near.items[1:]])
    summary = summarize(near, scored_answers([1] * 12, [0] * 12), {})
    assert summary.left_out == [0]
    [warning] = [warning for warning in summary.warnings if warning.code == "near_leak"]
    assert warning.message == "1 of 12 items are nearly the same as one in the training file, and are left out"


def test_a_file_of_which_every_item_was_trained_on_gives_no_verdict() -> None:
    found = comparison()
    with pytest.raises(ComparisonError, match="nothing can be compared: every item is in the training file"):
        summarize(found._replace(training=found.items), scored_answers([1] * 12, [0] * 12), {})


def test_items_that_contradict_each_other_are_named() -> None:
    found = comparison()
    items = [*found.items[:-1], Item(found.items[0].messages, "go")]
    summary = summarize(found._replace(items=items), scored_answers([1] * 12, [0] * 12), {})
    [warning] = [warning for warning in summary.warnings if warning.code == "contradiction"]
    assert (warning.items, warning.message[:13]) == ((0, 11), "2 of 12 items")


def test_cut_off_and_empty_answers_are_named() -> None:
    assert codes(comparison()) == []
    assert codes(comparison(), finish_reason="length") == ["truncated_answers"] * 2
    assert codes(comparison(), finish_reason="stop") == []
    assert codes(comparison(), text=" ") == ["empty_answers"] * 2


def test_a_thousand_items_are_checked_against_ten_thousand_examples_quickly() -> None:
    items = [Item(chat(f"user: order {i} has not arrived, where is parcel {i * 7}?"), "late") for i in range(1000)]
    training = [Item(chat(f"user: order {i} came broken, I want money for {i * 3}"), "refund") for i in range(10_000)]
    started = time.monotonic()
    assert leaked_items(comparison()._replace(items=items, training=training)) == {}
    assert time.monotonic() - started < 20
