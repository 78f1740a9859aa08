from loramux_adapters.evaluation.duplicates import prompt_key
from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.questions import Questions, leak_warnings, select_unseen
from tests.helpers.fine_tuning_jobs import CharacterTokens


def item(question: str, answer: str = "a") -> Item:
    return Item([{"role": "system", "content": "Intent?"}, {"role": "user", "content": question}], answer)


def test_a_prompt_that_the_training_data_have_is_not_asked() -> None:
    chosen, leaks = select_unseen([item("one"), item("two")], [item("Two!", "b"), item("three")], 10)
    assert (chosen, leaks) == ([1], {0: "exact"})


def test_a_prompt_that_the_training_data_nearly_have_is_not_asked() -> None:
    words = [f"word{i}" for i in range(80)]
    chosen, leaks = select_unseen([item(" ".join(words))], [item(" ".join([*words, "more"]))], 10)
    assert (chosen, leaks) == ([], {0: "near"})


def test_at_most_so_many_questions_as_wanted_are_asked_and_the_same_ones_each_time() -> None:
    held_out = [item(f"question {i}") for i in range(40)]
    first, again = (select_unseen([item("one")], held_out, 10)[0] for _ in range(2))
    assert len(first) == 10
    assert first == again


def test_questions_have_the_lengths_of_the_longest_prompt_and_answer() -> None:
    tokens = CharacterTokens()
    questions = Questions.of([item("one", "aa"), item("three", "a")], tokens.count_prompt, tokens.count_conversation)
    assert questions.max_prompt_tokens == len("Intent?three")
    assert questions.max_answer_tokens == len("aa") + 8
    assert Questions.of([], tokens.count_prompt, tokens.count_conversation).max_prompt_tokens == 0


def test_leaks_are_named_with_their_numbers() -> None:
    exact, near = leak_warnings({0: "near", 1: "exact", 3: "exact"}, [11, 12, 13, 14])
    assert (exact.code, exact.items, exact.message) == (
        "leak", (12, 14), "2 of 4 held-out prompts are in the training data too, and were left out",
    )  # fmt: skip
    assert (near.code, near.items, near.message) == (
        "near_leak", (11,), "1 of 4 held-out prompts are nearly equal to one in the training data, and were left out",
    )  # fmt: skip
    assert leak_warnings({}, [1, 2]) == []


def test_the_same_words_with_other_tools_are_another_question() -> None:
    tools = [{"type": "function", "function": {"name": "rain"}}]
    held_out = [item("one two three four")._replace(tools=tools)]
    assert prompt_key(held_out[0]) != prompt_key(item("one two three four"))
