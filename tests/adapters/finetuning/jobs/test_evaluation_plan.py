import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.finetuning.errors import ChatTemplateError, InvalidDataset
from loramux_adapters.finetuning.jobs.evaluation_plan import EvaluationPlan, plan_evaluation
from tests.helpers.fine_tuning_jobs import CharacterTokens

TOOLS = [{"type": "function", "function": {"name": "rain"}}]
Pairs = Sequence[tuple[str, str]]


def write(path: Path, pairs: Pairs) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}
        for user, assistant in pairs
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def planned(folder: Path, training: Pairs, validation: Pairs, max_context_tokens: int = 5000) -> EvaluationPlan:
    paths = write(folder / "t.jsonl", training), write(folder / "v.jsonl", validation)
    return plan_evaluation(*paths, CharacterTokens(), max_context_tokens=max_context_tokens, max_questions=20)


TRAINING = [(f"question {i}", "yes" if i % 3 else "no") for i in range(60)]
VALIDATION = [(f"other {i}", "yes" if i % 2 else "no") for i in range(30)]


def test_questions_selection_and_examples_have_no_prompt_in_common(tmp_path: Path) -> None:
    plan = planned(tmp_path, TRAINING, VALIDATION)
    asked = {item.messages[-1]["content"] for item in plan.questions.items}
    selection = {item.messages[-1]["content"] for item in plan.selection.items}
    examples = {shot[0]["content"] for prompt in plan.prompts for shot in prompt.shots}
    assert (len(asked), len(selection), len(examples)) == (20, 10, 50)
    assert not asked & selection
    assert not asked & examples
    assert not selection & examples
    assert (plan.left_out, plan.warnings) == (0, [])


def test_a_prompt_that_occurs_twice_is_not_an_example_and_a_selection_item(tmp_path: Path) -> None:
    plan = planned(tmp_path, [*TRAINING, *((f"{question}!", answer) for question, answer in TRAINING)], VALIDATION)
    selection = {item.messages[-1]["content"].strip("!") for item in plan.selection.items}
    assert not selection & {shot[0]["content"].strip("!") for prompt in plan.prompts for shot in prompt.shots}


def test_prompts_that_the_template_refuses_are_not_tried(tmp_path: Path) -> None:
    class Strict(CharacterTokens):
        def count_prompt(self, messages: Any, tools: Any = ()) -> int:
            if len(messages) > 9:
                raise ChatTemplateError("roles must alternate")
            return super().count_prompt(messages, tools)

        count_conversation = CharacterTokens.count_conversation

    paths = write(tmp_path / "t.jsonl", TRAINING), write(tmp_path / "v.jsonl", VALIDATION)
    plan = plan_evaluation(*paths, Strict(), max_context_tokens=5000, max_questions=20)
    assert [len(prompt.shots) for prompt in plan.prompts] == [0, 0]


def test_tools_and_calls_of_both_files_are_asked_and_expected(tmp_path: Path) -> None:
    def line(number: int) -> str:
        function = {"name": "rain", "arguments": json.dumps({"days": number})}
        call = {"id": "1", "type": "function", "function": function}
        messages = [
            {"role": "user", "content": f"rain in {number} days?"},
            {"role": "assistant", "tool_calls": [call]},
        ]
        return json.dumps({"messages": messages, "tools": TOOLS})

    paths = tmp_path / "t.jsonl", tmp_path / "v.jsonl"
    for path, numbers in zip(paths, (range(30), range(30, 40)), strict=True):
        path.write_text("\n".join(map(line, numbers)))
    plan = plan_evaluation(*paths, CharacterTokens(), max_context_tokens=5000, max_questions=5)
    assert plan.scorer.measure == "right call"
    assert [item.tools for item in plan.questions.items] == [TOOLS] * 5
    item = plan.questions.items[0]
    assert plan.scorer.score(item.expected, item.expected)["right call"] == 1
    assert plan.scorer.score(item.expected.replace("rain", "snow"), item.expected)["valid call"] == 0
    other = [{"type": "function", "function": {"name": "snow"}}]
    assert plan.scorer.among(other).score(item.expected, item.expected)["valid call"] == 0
    assert plan.scorer.among(()).score(item.expected.replace("rain", "snow"), item.expected)["valid call"] == 0


def test_the_constant_is_the_answer_that_scores_best_on_the_questions(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, TRAINING, [(question, "no" if i % 3 else "yes") for i, (question, _) in enumerate(VALIDATION)]
    )
    assert plan.scorer.measure == "label accuracy"
    constant, scores = plan.best_constant("label accuracy")
    assert constant == "no"  # most training answers are "yes"
    assert scores == [float(item.expected == "no") for item in plan.questions.items]


def test_labels_that_only_the_validation_file_has_are_labels_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, TRAINING, [*VALIDATION[:10], ("unlike", "maybe")])
    assert plan.scorer.score("Maybe.", "maybe")["label accuracy"] == 1
    assert plan.best_constant("label accuracy")[1].count(0.0) == 6


def test_leaks_and_contradictions_are_named(tmp_path: Path) -> None:
    contradicting = [*TRAINING, ("QUESTION 1", "no"), ("question 2.", "no")]
    plan = planned(tmp_path, contradicting, [*VALIDATION, ("Question 5", "yes")])
    leak, contradiction = plan.warnings
    assert (leak.code, leak.items, plan.left_out) == ("leak", (31,), 1)  # its line
    questions = [item.messages[-1]["content"] for item in plan.questions.items]
    assert [f"other {line - 1}" for line in plan.lines] == questions
    assert contradiction.message == (
        "2 prompts have different answers in the data, such as 'yes' and 'no': at most one can be right"
    )


def test_nothing_is_left_if_the_training_file_has_everything(tmp_path: Path) -> None:
    plan = planned(tmp_path, TRAINING, TRAINING[:10])
    assert plan.questions.items == []
    assert plan.left_out == 10


def test_prompts_and_answers_keep_to_the_context_of_questions_and_selection(tmp_path: Path) -> None:
    long = [(f"question {i} {'x' * 150}", "yes" if i % 3 else "no") for i in range(60)]
    plan = planned(tmp_path, long, VALIDATION, max_context_tokens=800)
    for prompt in plan.prompts:
        for questions in (plan.questions, plan.selection):
            for item in questions.items:
                count = CharacterTokens().count_prompt(prompt.add_to(item.messages))
                assert count + questions.max_answer_tokens <= 800


def test_text_in_any_script_is_planned(tmp_path: Path) -> None:
    texts = ["您的包裹正在运送途中", "🎉" * 50, "\u0000\u202e", "ﬁ ﬂ İı", "a\u0301" * 9, " "]
    odd = [(f"{text} {i}", text or "x") for i in range(8) for text in texts]
    plan = planned(tmp_path, odd, [(f"{question} new", answer) for question, answer in odd])
    assert len(plan.questions.items) == 20
    assert all(score >= 0 for score in plan.best_constant(plan.scorer.measure)[1])


def test_an_invalid_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", TRAINING)
    (tmp_path / "v.jsonl").write_text("{}\n")
    with pytest.raises(InvalidDataset):
        plan_evaluation(path, tmp_path / "v.jsonl", CharacterTokens(), max_context_tokens=5000, max_questions=20)
