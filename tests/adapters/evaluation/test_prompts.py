import json
from pathlib import Path
from typing import Any

from loramux_adapters.evaluation.prompts import MOST_SHOTS, Prompt, prompt_with_examples, questions
from tests.helpers.fine_tuning_jobs import Letters


def written(path: Path, *chats: list[tuple[str, str]]) -> Path:
    lines = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in chats]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def labelled(question: str, label: str) -> list[tuple[str, str]]:
    return [("system", "Intent?"), ("user", question), ("assistant", label)]


def said(prompt: Prompt, *question: tuple[str, str]) -> list[tuple[str, str]]:
    chat = prompt.before([{"role": role, "content": content} for role, content in question])
    return [(message["role"], message["content"]) for message in chat]


def test_what_was_learned_is_not_asked(tmp_path: Path) -> None:
    training = written(tmp_path / "t", labelled("one", "a"), labelled("two", "b"))
    validation = written(tmp_path / "v", labelled("two", "b"), labelled("three", "a"))
    asked = questions(training, validation, Letters(), most=10)
    assert [row["prompt"][-1]["content"] for row in asked.rows] == ["three"]
    assert asked.left_out == 1
    assert asked.longest_prompt == len("Intent?three")
    assert asked.most_tokens == len("a") + 8


def test_where_all_was_learned_nothing_is_asked(tmp_path: Path) -> None:
    file = written(tmp_path / "t", labelled("one", "a"))
    assert questions(file, file, Letters(), most=10).rows == []


def test_of_many_questions_as_many_are_asked_as_wanted_and_the_same_ones_each_time(tmp_path: Path) -> None:
    training = written(tmp_path / "t", labelled("one", "a"))
    validation = written(tmp_path / "v", *(labelled(f"question {i}", "a") for i in range(40)))
    first, again = (questions(training, validation, Letters(), most=10).rows for _ in range(2))
    assert len(first) == 10
    assert first == again


def test_the_prompt_names_the_labels_and_shows_one_of_each_before_a_second(tmp_path: Path) -> None:
    chats = [labelled(f"{label} {i}", label) for i in range(4) for label in ("refund", "card", "loan")]
    prompt = prompt_with_examples(written(tmp_path / "t", *chats), Letters(), room=10_000)
    assert prompt.instruction.endswith("\n- card\n- loan\n- refund")
    answers = [shot[-1]["content"] for shot in prompt.shots]
    assert len(answers) == 12
    assert all(len(set(answers[i : i + 3])) == 3 for i in range(0, 12, 3))
    (system, *shots, question) = said(prompt, ("system", "Intent?"), ("user", "and this"))
    assert system == ("system", f"Intent?\n\n{prompt.instruction}")
    assert [role for role, _ in shots] == ["user", "assistant"] * 12
    assert question == ("user", "and this")


def test_the_prompt_keeps_to_its_room(tmp_path: Path) -> None:
    chats = [labelled("x" * 80, f"{i:020}") for i in range(MOST_SHOTS + 20)]
    training = written(tmp_path / "t", *chats)
    assert prompt_with_examples(training, Letters(), room=50).shots == []
    assert len(prompt_with_examples(training, Letters(), room=450).shots) == 4
    assert len(prompt_with_examples(training, Letters(), room=10**6).shots) == MOST_SHOTS


def test_answers_of_many_kinds_are_not_listed(tmp_path: Path) -> None:
    training = written(tmp_path / "t", *(labelled(f"q{i}", f"answer {i}") for i in range(60)))
    assert prompt_with_examples(training, Letters(), room=10_000).instruction == ""


def test_an_earlier_turn_stays_with_its_question(tmp_path: Path) -> None:
    chat = [("user", "hello"), ("assistant", "hi"), ("user", "more"), ("assistant", "no")]
    training = written(tmp_path / "t", chat)
    prompt = prompt_with_examples(training, Letters(), room=10_000)
    roles: list[Any] = [[message["role"] for message in shot] for shot in prompt.shots]
    assert sorted(map(len, roles)) == [2, 4]


def test_a_bare_prompt_changes_nothing() -> None:
    question = (("system", "Intent?"), ("user", "and this"))
    assert said(Prompt("", []), *question) == list(question)
    assert said(Prompt("", []), question[1]) == [question[1]]
