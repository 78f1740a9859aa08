from loramux_adapters.evaluation.items import Item
from loramux_loadtests.compare.samples import samples
from tests.helpers.comparisons import PROMPTED, TUNED, chat, comparison, scored_answer, scored_answers


def test_a_sample_has_the_exact_messages_that_each_arm_sent() -> None:
    """T2: the messages of each arm can be seen."""
    found = comparison()
    items = [Item(chat("system: own", "user: red 0", "assistant: stop", "user: green?"), "go"), *found.items[1:]]
    kept = found._replace(items=items, arms=[found.arms[0], found.arms[1]._replace(prompt=[])])
    first, *rest = samples(kept, scored_answers([1] * 12, [0] * 12))
    assert (first.item, first.question, first.expected, len(rest)) == (0, "green?", "go", 2)
    assert first.arms[TUNED].messages == items[0].messages
    assert first.arms[PROMPTED].messages == [*found.arms[0].prompt, *items[0].messages[1:]]
    assert (first.arms[TUNED].text, first.arms[TUNED].scores) == ("stop", {"accuracy": 1, "exact": 1})


def test_samples_are_of_the_last_pass_and_of_items_that_every_arm_answered() -> None:
    cold = [one.model_copy(update={"pass_": "cold", "text": "old"}) for one in scored_answers([1] * 3, [1] * 3)]
    found = samples(comparison(), [*cold, scored_answer(TUNED, 0), *scored_answers([1] * 3, [1] * 3)[1:3]])
    assert found == []
    found = samples(comparison(), [*cold, *scored_answers([1] * 2, [1] * 2)])
    assert [(one.item, one.arms[TUNED].text) for one in found] == [(0, "stop"), (1, "stop")]
