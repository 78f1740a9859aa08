"""The self-test of a job: an adapter that has learned its answers has to give them before it is promoted."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.jobs.errors import EvaluationFailed, SelfTestFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion
from loramux_adapters.finetuning.jobs.models import JobEvent
from loramux_adapters.finetuning.jobs.self_test import LAST_STEPS, SelfTest, final_metrics
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import VersionId
from tests.helpers.fine_tuning_jobs import CharacterTokens, has_ended, job_test_bed, messages, until

VERSION = VersionId.parse("tone@0123456789ab")
TOOLS = [{"type": "function", "function": {"name": "rain"}}]
Answer = Callable[[str], str]


def training_file(folder: Path, answer: Answer, count: int = 30) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": answer(f"q{i}")}]}
        for i in range(count)
    ]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def steps(accuracy: float, loss: float = 0.0001, count: int = 20) -> list[dict[str, Any]]:
    return [{"step": i, "train_loss": loss, "train_mean_token_accuracy": accuracy} for i in range(count)]


def self_test(answer: Answer, asked: list[tuple[str, int]] | None = None) -> SelfTest:
    """A self-test whose engine answers a question by `answer`; `asked` gets each question and its `max_tokens`."""

    async def complete(
        version: Any, chat: Any, max_tokens: int, tools: Any = (), parallel_tool_calls: bool = True
    ) -> Completion:
        assert version == VERSION
        if asked is not None:
            asked.append((chat[-1]["content"], max_tokens))
        return Completion(answer(chat[-1]["content"])[:max_tokens], 1, 1, 0.0)

    return SelfTest(complete, CharacterTokens())


def run(test: SelfTest, training: Path, metrics: Sequence[dict[str, Any]]) -> JobEvent:
    return asyncio.run(test.run(VERSION, training, metrics))


def label(question: str) -> str:
    return f"label of {question}"


def test_learned_answers_that_are_given_pass(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    event = run(self_test(label, asked), training_file(tmp_path, label), steps(1.0))
    assert event == JobEvent("Self-test: 12 of 12 training questions were answered as trained")
    assert len({question for question, _ in asked}) == 12


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(lambda question: f"<think>\n\n</think>\n\n{label(question)}", id="a think block"),  # T7
        pytest.param(lambda question: label(question)[2:], id="without the first tokens"),  # T8
        pytest.param(lambda _question: "", id="nothing"),
    ],
)
def test_learned_answers_that_are_not_given_fail_with_both_numbers_and_the_likely_cause(
    tmp_path: Path, served: Answer
) -> None:
    """T8: a training with loss 1e-4 and accuracy 1.0, whose adapter answered 1 of 12 training questions right."""
    with pytest.raises(SelfTestFailed) as failed:
        run(self_test(served), training_file(tmp_path, label), steps(1.0))
    for part in ("Only 0 of 12", "accuracy of 1.00 (loss 0.0001)", "chat template", "tone@0123456789ab"):
        assert part in failed.value.message
    assert "\n" not in failed.value.message


def test_half_of_the_answers_right_is_enough(tmp_path: Path) -> None:
    right = [True] * 6 + [False] * 6
    test = self_test(lambda question: label(question) if right.pop() else "")
    assert "6 of 12" in run(test, training_file(tmp_path, label), steps(1.0)).message


@pytest.mark.parametrize("metrics", [steps(0.94), [], [{"step": 1, "valid_loss": 0.1}]])
def test_answers_that_were_not_learned_are_not_asked_for(tmp_path: Path, metrics: list[dict[str, Any]]) -> None:
    asked: list[tuple[str, int]] = []
    event = run(self_test(label, asked), training_file(tmp_path, label), metrics)
    assert event.message.startswith("The self-test was skipped: ")
    assert asked == []


def test_of_long_answers_that_are_nearly_learned_only_the_beginning_has_to_be_right(tmp_path: Path) -> None:
    def long(question: str) -> str:
        return question + "x" * 400

    asked: list[tuple[str, int]] = []
    event = run(self_test(lambda question: f"{question}xxx, or so", asked), training_file(tmp_path, long), steps(0.97))
    assert "12 of 12" in event.message
    assert max(max_tokens for _, max_tokens in asked) < 20


def test_questions_with_several_answers_are_not_asked(tmp_path: Path) -> None:
    path = training_file(tmp_path, label, 8)
    again = path.read_text().replace("label of", "another label of")
    path.write_text(path.read_text() + again.replace('"q7"', '"q8"'))
    asked: list[tuple[str, int]] = []
    with pytest.raises(SelfTestFailed):
        run(self_test(lambda _: "", asked), path, steps(1.0))
    assert {question for question, _ in asked} == {"q7", "q8"}


def test_reasoning_in_the_training_data_is_not_compared(tmp_path: Path) -> None:
    training = training_file(tmp_path, lambda question: f"<think>\nhm\n</think>\n\n{label(question)}")
    for served in (label, lambda question: f"other thoughts\n</think>\n\n{label(question)}"):
        assert "12 of 12" in run(self_test(served), training, steps(1.0)).message


def test_an_engine_that_refuses_a_question_does_not_fail_the_job(tmp_path: Path) -> None:
    async def refuse(
        version: Any, chat: Any, max_tokens: int, tools: Any = (), parallel_tool_calls: bool = True
    ) -> Completion:
        raise EvaluationFailed("no slot is free")

    event = run(SelfTest(refuse, CharacterTokens()), training_file(tmp_path, label), steps(1.0))
    assert event == JobEvent("The self-test could not be run: no slot is free", "warn")


def test_the_final_accuracy_is_that_of_the_last_steps() -> None:
    learned = final_metrics(steps(0.2, 3.0) + steps(0.98, 0.1, LAST_STEPS) + [{"step": 9, "valid_loss": 0.3}])
    assert learned
    assert (round(learned.accuracy, 6), round(learned.loss, 6)) == (0.98, 0.1)


@given(st.floats(0.95, 1.0))
def test_so_many_tokens_are_compared_that_nine_of_ten_answers_should_be_right(accuracy: float) -> None:
    learned = final_metrics(steps(accuracy))
    assert learned
    assert 1 <= learned.comparable_tokens <= 64
    assert accuracy**learned.comparable_tokens >= 0.9 - 1e-6


@pytest.mark.parametrize(("served", "state"), [(label, JobState.SUCCEEDED), (lambda _: "", JobState.FAILED)])
async def test_a_job_that_fails_its_self_test_promotes_nothing(
    tmp_path: Path, engine: sa.Engine, served: Answer, state: JobState
) -> None:
    """T8: the adapter of a failed self-test is added, so that it can be looked at, but its name leads nowhere."""
    bed = job_test_bed(tmp_path, engine, "train", "0", "1.0")

    async def complete(
        version: Any, chat: Any, max_tokens: int, tools: Any = (), parallel_tool_calls: bool = True
    ) -> Completion:
        number = int(chat[-1]["content"].split()[-1])
        return Completion(f"answer {number % 3}" if served is label else "answered", 1, 1, 0.0)

    bed.runner.publisher = replace(bed.runner.publisher, self_test=SelfTest(complete, CharacterTokens()))
    job = bed.job()
    async with bed.supervisor.running():
        found = await until(bed, job, has_ended)
    assert found.state is state
    assert bool(bed.library.aliases) == (state is JobState.SUCCEEDED)
    if state is JobState.FAILED:
        assert found.error
        assert found.error["code"] == "self_test_failed"
        assert any("Only 0 of 12 training questions" in message for message in messages(bed, found))
    else:
        assert "Self-test: 12 of 12 training questions were answered as trained" in messages(bed, found)


@pytest.mark.parametrize(("name", "passes"), [("rain", True), ("snow", False)])
def test_a_call_is_compared_up_to_the_name_of_its_tool_at_least(tmp_path: Path, name: str, passes: bool) -> None:
    class Counter(CharacterTokens):
        def count_conversation(self, messages: Any, tools: Any = ()) -> int:
            return self.count_prompt(messages) + len(str(messages[-1].get("tool_calls", "")))

    def line(number: int) -> dict[str, Any]:
        call = {"id": "1", "type": "function", "function": {"name": "rain", "arguments": "{}"}}
        asked = {"role": "user", "content": f"question {number}"}
        return {"messages": [asked, {"role": "assistant", "tool_calls": [call]}], "tools": TOOLS}

    async def complete(
        version: Any, chat: Any, max_tokens: int, tools: Any = (), parallel_tool_calls: bool = True
    ) -> Completion:
        assert (version, len(chat), tools) == (VERSION, 1, TOOLS)
        assert max_tokens > 50  # a call that is cut off would be none
        return Completion(f'{{"tool_calls": [{{"name": "{name}", "arguments": {{"x": 1}}}}]}}', 1, 1, 0.0)

    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line(number)) + "\n" for number in range(12)))
    test = SelfTest(complete, Counter())
    if passes:
        assert run(test, path, steps(0.97)).message.startswith("Self-test: 12 of 12")
    else:
        with pytest.raises(SelfTestFailed):
            run(test, path, steps(0.97))
