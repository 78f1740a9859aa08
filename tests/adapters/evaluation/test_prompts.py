import json
from random import Random

from loramux_adapters.evaluation.items import Chat, Item, Tools
from loramux_adapters.evaluation.prompts import Prompt, candidate_prompts
from tests.helpers.fine_tuning_jobs import CharacterTokens

SYSTEM = "Intent?"
TOOLS = [{"type": "function", "function": {"name": "rain"}}]


def item(question: str, answer: str, system: str = SYSTEM) -> Item:
    first = [{"role": "system", "content": system}] if system else []
    return Item([*first, {"role": "user", "content": question}], answer)


def prompts_of(training: list[Item], max_tokens: int = 10_000) -> list[Prompt]:
    rng = Random(0)  # noqa: S311 - an order, not a secret
    return candidate_prompts(training, CharacterTokens().count_conversation, max_tokens, rng=rng)


def turns(prompt: Prompt, *question: tuple[str, str]) -> list[tuple[str, str]]:
    chat = prompt.add_to([{"role": role, "content": content} for role, content in question])
    return [(message["role"], message["content"]) for message in chat]


def labelled(each: int) -> list[Item]:
    return [item(f"{label} {i}", label) for i in range(each) for label in ("refund", "card", "loan")]


def test_the_base_is_tried_bare_with_instructions_and_with_a_few_numbers_of_examples() -> None:
    prompts = prompts_of(labelled(30))
    assert [prompt.name for prompt in prompts] == [
        "base",
        "base with instructions",
        "base with 4 examples in its prompt",
        "base with 16 examples in its prompt",
        "base with 50 examples in its prompt",
    ]
    assert [len(prompt.shots) for prompt in prompts] == [0, 0, 4, 16, 50]
    assert prompts[0] == Prompt("base")


def test_instructions_list_the_labels_and_examples_show_one_of_each_before_a_second() -> None:
    *_, largest = prompts_of(labelled(4))
    assert largest.instruction.endswith("\n- card\n- loan\n- refund")
    answers = [shot[-1]["content"] for shot in largest.shots]
    assert len(answers) == 12
    assert all(len(set(answers[i : i + 3])) == 3 for i in range(0, 12, 3))
    (system, *shots, question) = turns(largest, ("system", SYSTEM), ("user", "and this"))
    assert system == ("system", f"{SYSTEM}\n\n{largest.instruction}")
    assert [role for role, _ in shots] == ["user", "assistant"] * 12
    assert question == ("user", "and this")


def test_instructions_for_json_name_the_common_keys() -> None:
    training = [item(f"q{i}", json.dumps({"dish": i, "größe": 1} | ({"rare": 1} if i == 3 else {}))) for i in range(9)]
    instruction = prompts_of(training)[1].instruction
    assert instruction == 'Answer with one JSON object that has the keys "dish", "größe", and nothing else.'
    assert prompts_of([item("q", "{}")])[1].instruction == "Answer with one JSON object, and nothing else."


def test_short_answers_have_the_instruction_to_give_nothing_else() -> None:
    prompts = prompts_of([item(f"q{i}", f"{i:06d}") for i in range(9)])
    assert prompts[1].name == "base with instructions"
    assert prompts[1].instruction.startswith("Answer with nothing but the answer itself")


def test_without_anything_to_add_there_is_no_prompt_with_instructions() -> None:
    training = [item(f"q{i}", f"A long answer of more than eight words, number {i}.") for i in range(9)]
    assert [len(prompt.shots) for prompt in prompts_of(training)] == [0, 4, 9]


def test_the_datas_own_system_message_is_given_to_a_question_without_one() -> None:
    prompt = prompts_of([*labelled(3), item("x", "loan", system="Another.")])[1]
    assert turns(prompt, ("user", "and this"))[0] == ("system", f"{SYSTEM}\n\n{prompt.instruction}")
    assert turns(prompt, ("system", "Its own."), ("user", "x"))[0] == ("system", f"Its own.\n\n{prompt.instruction}")


def test_texts_without_a_system_message_have_no_instructions() -> None:
    training = [item(f"q{i}", f"A long answer of more than eight words, number {i}.", system="") for i in range(9)]
    assert [len(prompt.shots) for prompt in prompts_of(training)] == [0, 4, 9]
    assert {prompt.instruction for prompt in prompts_of(training)} == {""}


def test_a_prompt_keeps_to_its_tokens() -> None:
    training = [item("x" * 80, f"a b c d e f g h {i:04}") for i in range(70)]
    assert [len(prompt.shots) for prompt in prompts_of(training, 5)] == [0]
    assert [len(prompt.shots) for prompt in prompts_of(training, 50)] == [0]
    assert [len(prompt.shots) for prompt in prompts_of(training, 950)] == [0, 4, 9]


def test_one_example_is_called_one() -> None:
    assert prompts_of([item("q", "a")])[-1].name == "base with 1 example in its prompt"


def test_an_earlier_turn_stays_with_its_question() -> None:
    first = [{"role": "user", "content": "hello"}]
    second = [*first, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]
    assert sorted(len(shot) for shot in prompts_of([Item(first, "hi"), Item(second, "no")])[-1].shots) == [2, 4]


def test_a_base_without_system_messages_gets_the_instructions_in_the_first_user_message() -> None:
    """A15: Gemma 2's chat template refuses system messages, so a job on it had no comparison."""
    rng = Random(0)  # noqa: S311 - an order, not a secret
    training = [item(f"{label} {i}", label, system="") for i in range(9) for label in ("refund", "card")]
    counted: list[str] = []

    def count(chat: Chat, _tools: Tools) -> int:
        counted.extend(message["role"] for message in chat)
        return CharacterTokens().count_conversation(chat)

    bare, instructed, *_, largest = candidate_prompts(training, count, 10_000, rng=rng, has_system_role=False)
    assert "system" not in counted
    assert turns(bare, ("user", "and this")) == [("user", "and this")]
    assert turns(instructed, ("user", "and this")) == [("user", f"{instructed.instruction}\n\nand this")]
    first, *others = turns(largest, ("user", "and this"))
    assert first == ("user", f"{largest.instruction}\n\n{largest.shots[0][0]['content']}")
    assert others[-1] == ("user", "and this")
    assert [role for role, _ in others] == ["assistant", "user"] * len(largest.shots)


def test_an_empty_prompt_changes_nothing() -> None:
    question = (("system", SYSTEM), ("user", "and this"))
    assert turns(Prompt("base"), *question) == list(question)
    assert turns(Prompt("base"), question[1]) == [question[1]]


def test_prompts_for_calls_ask_for_one_and_show_each_tool_before_a_second_call_of_it() -> None:
    def called(name: str, value: str) -> Item:
        answer = json.dumps({"tool_calls": [{"name": name, "arguments": {"value": value}}]})
        return Item([{"role": "user", "content": f"{name} {value}"}], answer, TOOLS)

    training = [called(name, f"v{i}") for i in range(8) for name in ("rain", "timer")]
    bare, instructed, few, *_ = prompts_of(training)
    assert "call of one of the tools" in instructed.instruction
    shown = [shot[-1]["tool_calls"][0]["function"]["name"] for shot in few.shots]
    assert [set(shown[:2]), set(shown[2:])] == [{"rain", "timer"}] * 2
    question = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "rain?"}]
    assert bare.add_to(question) == question


def test_the_tools_of_examples_are_counted_once() -> None:
    def count(chat: Chat, tools: Tools) -> int:
        return 1000 * len(tools) + len(chat)

    items = [item._replace(tools=TOOLS) for item in labelled(9)]
    prompts = candidate_prompts(items, count, 100, rng=Random(0))  # noqa: S311 - an order
    assert len(prompts[-1].shots) == 27
