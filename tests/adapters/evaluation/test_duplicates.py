import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.duplicates import find_contradictions, find_leaks, normalize
from loramux_adapters.evaluation.items import Item

SYSTEM = "Label the intent of the customer's message with one of our labels, and nothing else."
WORDS = [f"word{i}" for i in range(3000)]


def item(user: str, expected: str = "x", system: str = SYSTEM) -> Item:
    return Item([{"role": "system", "content": system}, {"role": "user", "content": user}], expected)


def text(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))  # noqa: S311


@pytest.mark.parametrize(
    "same", ["WHERE is my card?", "where is   my card", " “Where is my card?” ", "Where is my ｃard!"]
)
def test_prompts_that_differ_in_case_space_and_punctuation_are_equal(same: str) -> None:
    assert find_leaks([item("Where is my card?")], [item(same)]) == {0: "exact"}


@pytest.mark.parametrize(("one", "other"), [("3 - 5", "3 + 5"), ("1.5 kg", "15 kg"), ("-5", "5"), ("C", "C++")])
def test_signs_that_carry_meaning_make_prompts_different(one: str, other: str) -> None:
    assert normalize(one) != normalize(other)
    assert find_leaks([item(one)], [item(other)]) == {}


def test_a_long_prompt_with_one_word_changed_is_nearly_equal() -> None:
    known = text(100, seed=1)
    changed = known.replace(known.split()[50], "other")
    assert find_leaks([item(known)], [item(changed), item(text(100, seed=2))]) == {0: "near"}


def test_a_short_prompt_with_one_word_changed_is_another_one() -> None:
    assert find_leaks([item("cancel order 17 please")], [item("cancel order 18 please")]) == {}


def test_a_long_system_message_that_all_share_makes_no_prompts_alike() -> None:
    system = text(300, seed=3)
    assert find_leaks([item("hello there", system=system)], [item("good bye", system=system)]) == {}


def test_the_same_text_for_another_task_is_no_leak() -> None:
    known = text(100, seed=1)
    assert find_leaks([item(known, system="Translate.")], [item(known, system="Summarize.")]) == {}


def test_equal_prompts_with_different_answers_contradict_each_other() -> None:
    items = [item("a b", "yes"), item("c", "no"), item("A b.", "No"), item("c", "No.")]
    assert find_contradictions(items) == [[0, 2]]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=10))
def test_every_text_is_found_in_itself(texts: list[str]) -> None:
    items = [item(each, system="") for each in texts]
    assert find_leaks(items, items) == dict.fromkeys(range(len(items)), "exact")


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=40).map(" ".join), min_size=2, max_size=12))
def test_prefix_filtering_misses_no_similar_pair(texts: list[str]) -> None:
    def shingles(content: str) -> set[tuple[str, ...]]:
        words = content.split()
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    known, *asked = texts
    expected = set()
    for index, each in enumerate(asked):
        one, other = shingles(known), shingles(each)
        if known == each or len(one & other) / len(one | other) >= 0.9:
            expected.add(index)
    assert set(find_leaks([item(known)], [item(each) for each in asked])) == expected


@pytest.mark.slow
def test_fifty_thousand_lines_take_seconds() -> None:
    training = [item(text(40, seed)) for seed in range(50_000)]
    held_out = [item(f"{text(40, seed)} again") for seed in range(40_000, 60_000)]
    started = time.process_time()
    assert len(find_leaks(training, held_out)) == 10_000
    assert time.process_time() - started < 30


@pytest.mark.slow
def test_lines_from_one_template_take_seconds_too() -> None:
    training = [item(f"{text(40, seed=1)} {number}") for number in range(50_000)]
    started = time.process_time()
    assert find_leaks(training, [item(f"{text(40, seed=1)} {number} x") for number in range(1000)])
    assert time.process_time() - started < 30
