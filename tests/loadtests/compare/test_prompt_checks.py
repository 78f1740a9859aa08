from collections.abc import Sequence

from loramux_adapters.evaluation.items import Item
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.prompt_checks import prompt_warnings
from tests.helpers.comparisons import chat, comparison

OWN, OTHER = "system: Label it.", "system: label"


def with_system(systems: Sequence[str], training: Sequence[str] = ()) -> Comparison:
    """The tuned arm's prompt is `label`, the prompted arm's is `rules` with examples."""
    items = [Item(chat(*filter(None, [system, f"user: red {i}"])), "stop") for i, system in enumerate(systems)]
    trained = [Item(chat(*filter(None, [system, f"user: blue {i}"])), "go") for i, system in enumerate(training)]
    return comparison()._replace(items=items, training=trained)


def test_a_prompt_that_replaces_the_items_system_message_is_named() -> None:
    """T2: an arm's prompt may replace the system message, but never silently."""
    prompted, tuned = prompt_warnings(with_system([OWN] * 12))
    assert (prompted.code, prompted.items) == ("replaced_system_message", ())
    assert prompted.message == "the prompt of “prompted” replaces the system message of all items"
    assert tuned.message == (
        "the prompt of “tuned” replaces the system message of all items; if its adapter was trained with that message, "
        "ask it without another one"
    )


def test_arms_that_do_the_same_share_a_warning_which_lists_some_of_the_items() -> None:
    one = with_system([OWN, "", OWN])
    three = one._replace(arms=[one.arms[0], one.arms[0]._replace(name="more"), one.arms[1]._replace(prompt=[])])
    [warning] = prompt_warnings(three)
    assert warning.message == "the prompts of “prompted” and “more” replace the system message of 2 of 3 items"
    assert warning.items == (0, 2)


def test_a_prompt_with_the_same_system_message_or_none_replaces_nothing() -> None:
    assert [warning.message[:27] for warning in prompt_warnings(with_system([OTHER] * 3))] == [
        "the prompt of “prompted” re"
    ]
    bare = with_system([OWN] * 3)
    assert prompt_warnings(bare._replace(arms=[arm._replace(prompt=arm.prompt[1:]) for arm in bare.arms])) == []


def test_an_adapter_asked_without_the_system_message_that_it_was_trained_with_is_named() -> None:
    """T2: the adapter ran without the prompt that it was trained with."""
    [warning] = prompt_warnings(with_system([""] * 3, training=[OWN] * 3))
    assert warning.code == "untrained_system_message"
    assert warning.message == (
        "“tuned” is asked all items with a system message, or none, that its training file does not have, which mostly "
        "has “Label it.”"
    )
    [warning] = prompt_warnings(with_system([""] * 3, training=["", "", OWN]))
    assert warning.message.endswith("which mostly has none")
    assert prompt_warnings(with_system([""] * 3, training=[OTHER, OWN])) == []
