from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.prompts import MAX_SHOTS, Prompt, Questions, few_shot_prompt, select_questions
from tests.helpers.fine_tuning_jobs import CharacterTokens

TOKENS = CharacterTokens()


def item(question: str, answer: str) -> Item:
    return Item([{"role": "system", "content": "Intent?"}, {"role": "user", "content": question}], answer)


def select(training: list[Item], validation: list[Item]) -> Questions:
    return select_questions(
        training,
        validation,
        count_prompt=TOKENS.count_prompt,
        count_conversation=TOKENS.count_conversation,
        max_questions=10,
    )


def prompt_of(training: list[Item], max_tokens: int = 10_000) -> Prompt:
    return few_shot_prompt(training, TOKENS.count_conversation, max_tokens)


def turns(prompt: Prompt, *question: tuple[str, str]) -> list[tuple[str, str]]:
    chat = prompt.add_to([{"role": role, "content": content} for role, content in question])
    return [(message["role"], message["content"]) for message in chat]


def test_a_prompt_that_the_training_data_have_is_not_asked() -> None:
    questions = select([item("one", "a"), item("two", "b")], [item("two", "b"), item("three", "a")])
    assert [question.messages[-1]["content"] for question in questions.items] == ["three"]
    assert questions.left_out == 1
    assert questions.max_prompt_tokens == len("Intent?three")
    assert questions.max_answer_tokens == len("a") + 8


def test_nothing_is_asked_if_the_training_data_have_everything() -> None:
    assert select([item("one", "a")], [item("one", "a")]).items == []


def test_at_most_so_many_questions_as_wanted_are_asked_and_the_same_ones_each_time() -> None:
    validation = [item(f"question {i}", "a") for i in range(40)]
    first, again = (select([item("one", "a")], validation).items for _ in range(2))
    assert len(first) == 10
    assert first == again


def test_the_prompt_lists_the_labels_and_shows_one_of_each_before_a_second() -> None:
    prompt = prompt_of([item(f"{label} {i}", label) for i in range(4) for label in ("refund", "card", "loan")])
    assert prompt.instruction.endswith("\n- card\n- loan\n- refund")
    answers = [shot[-1]["content"] for shot in prompt.shots]
    assert len(answers) == 12
    assert all(len(set(answers[i : i + 3])) == 3 for i in range(0, 12, 3))
    (system, *shots, question) = turns(prompt, ("system", "Intent?"), ("user", "and this"))
    assert system == ("system", f"Intent?\n\n{prompt.instruction}")
    assert [role for role, _ in shots] == ["user", "assistant"] * 12
    assert question == ("user", "and this")


def test_the_prompt_keeps_to_its_tokens() -> None:
    training = [item("x" * 80, f"{i:020}") for i in range(MAX_SHOTS + 20)]
    assert prompt_of(training, 50).shots == []
    assert len(prompt_of(training, 450).shots) == 4
    assert len(prompt_of(training, 10**6).shots) == MAX_SHOTS


def test_many_distinct_answers_are_not_listed() -> None:
    assert prompt_of([item(f"q{i}", f"answer {i}") for i in range(60)]).instruction == ""


def test_an_earlier_turn_stays_with_its_question() -> None:
    first = [{"role": "user", "content": "hello"}]
    second = [*first, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]
    prompt = prompt_of([Item(first, "hi"), Item(second, "no")])
    assert sorted(len(shot) for shot in prompt.shots) == [2, 4]


def test_an_empty_prompt_changes_nothing() -> None:
    question = (("system", "Intent?"), ("user", "and this"))
    assert turns(Prompt("", []), *question) == list(question)
    assert turns(Prompt("", []), question[1]) == [question[1]]
