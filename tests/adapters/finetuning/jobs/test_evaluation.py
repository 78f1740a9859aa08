import asyncio
import json
from pathlib import Path

import pytest

from loramux_adapters.evaluation.items import Chat, Tools
from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion, EvaluationResult, Evaluator
from loramux_adapters.finetuning.jobs.evaluation_summary import START
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from tests.helpers.fine_tuning_jobs import CharacterTokens

VERSION = VersionId(AdapterName("tone"), parse_digest("0123456789ab"))
START_VERSION = VersionId(AdapterName("tone"), parse_digest("ab0123456789"))


SHOTS = "base with 4 examples in its prompt"


def written(path: Path, numbers: range, answer: str = "label {1}") -> Path:
    contents = [{"system": "Intent?", "user": f"number {i}", "assistant": answer.format(i, i % 3)} for i in numbers]
    lines = [{"messages": [{"role": role, "content": text} for role, text in chat.items()]} for chat in contents]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Model:
    """The adapter answers everything right, the base only with examples in its prompt."""

    def __init__(self) -> None:
        self.concurrency = self.max_concurrency = 0
        self.asked: list[tuple[VersionId | None, Chat, int]] = []
        self.parallel: set[bool] = set()

    async def __call__(
        self,
        version: VersionId | None,
        chat: Chat,
        max_tokens: int,
        tools: Tools = (),
        parallel_tool_calls: bool = True,
    ) -> Completion:
        self.asked.append((version, chat, max_tokens))
        self.parallel.add(parallel_tool_calls)
        self.concurrency += 1
        self.max_concurrency = max(self.concurrency, self.max_concurrency)
        await asyncio.sleep(0.001)
        self.concurrency -= 1
        return await self.answer(version, chat)

    async def answer(self, version: VersionId | None, chat: Chat) -> Completion:
        """Return the completion of a chat by a version, or by the base."""
        number = chat[-1]["content"].split()[-1]
        is_right = version is not None or len(chat) > 2
        return Completion(f"label {int(number) % 3}" if is_right else "?", sum(len(m["content"]) for m in chat), 2, 0.1)


class BrokenModel(Model):
    async def answer(self, version: VersionId | None, chat: Chat) -> Completion:
        await super().answer(version, chat)
        if len(chat) > 2:
            raise EvaluationFailed("The engine refused a question of the comparison.")
        await asyncio.sleep(60)
        raise AssertionError("the other requests are cancelled")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path / "t", range(30)), written(tmp_path / "v", range(20, 60))


async def evaluated(
    model: Model,
    files: tuple[Path, Path],
    max_context_tokens: int = 2000,
    max_questions: int = 25,
    start: VersionId | None = None,
) -> EvaluationResult:
    evaluator = Evaluator(model, CharacterTokens(), max_context_tokens, max_questions)
    result = await evaluator.evaluate(VERSION, start, *files)
    assert result is not None
    return result


async def test_every_arm_gets_every_question_few_at_a_time(files: tuple[Path, Path]) -> None:
    model = Model()
    summary, answers, tried, questions, _, prompts = await evaluated(model, files)
    assert len(answers) == 3 * 25
    assert len(model.asked) == len(answers) + len(tried)
    assert 1 < model.max_concurrency <= 4
    assert {answer.question for answer in answers} == set(range(len(questions))) == set(range(25))
    assert summary.left_out == 10
    assert {name: arm.scores["label accuracy"].estimate for name, arm in summary.arms.items()} == {
        "base": 0,
        SHOTS: 1,
        "adapter": 1,
    }
    assert [prompt.name for prompt in prompts] == ["base", SHOTS]
    assert summary.verdict == "not enough items"
    assert summary.is_not_worse is False
    bare = [chat for version, chat, _ in model.asked[len(tried) :] if version is None and len(chat) == 2]
    assert [chat for version, chat, _ in model.asked[len(tried) :] if version] == bare


async def test_the_baseline_is_chosen_on_training_examples_that_are_in_no_prompt(files: tuple[Path, Path]) -> None:
    model = Model()
    summary, _, tried, questions, *_ = await evaluated(model, files)
    assert [(each.name, each.score, each.items, each.is_chosen) for each in summary.candidates] == [
        ("base", 0.0, 7, False),
        ("base with instructions", 0.0, 7, False),
        (SHOTS, 1.0, 7, True),  # of equals the cheapest
        ("base with 16 examples in its prompt", 1.0, 7, False),
        ("base with 23 examples in its prompt", 1.0, 7, False),
    ]
    chosen_by = {chat[-1]["content"] for _, chat, _ in model.asked[: len(tried)]}
    examples = {m["content"] for _, chat, _ in model.asked for m in chat[:-1] if m["role"] == "user"}
    asked = {question.messages[-1]["content"] for question in questions}
    assert len(chosen_by) == 7
    assert not chosen_by & examples
    assert not chosen_by & asked
    assert not examples & asked


async def test_the_choice_of_a_baseline_takes_no_longer_than_the_questions(files: tuple[Path, Path]) -> None:
    model = Model()
    _, answers, tried, *_ = await evaluated(model, files, max_questions=12)
    assert len(answers) == 3 * 12
    assert len(tried) <= len(answers)


class BareIsBest(Model):
    """The base is right without a prompt, and confused by any; the adapter is right."""

    async def answer(self, version: VersionId | None, chat: Chat) -> Completion:
        found = await super().answer(version, chat)
        number = int(chat[-1]["content"].split()[-1])
        is_right = version is not None or (len(chat) == 2 and "\n" not in chat[0]["content"])
        return found._replace(text=f"label {number % 3}" if is_right else "?")


async def test_a_bare_base_that_is_best_is_the_baseline(files: tuple[Path, Path]) -> None:
    summary, answers, *_ = await evaluated(BareIsBest(), files)
    assert summary.rival == "base"
    assert summary.arms.keys() == {"base", "adapter"}
    assert len(answers) == 2 * 25


class NobodyIsExact(Model):
    """All answers miss the exact text, the adapter's by a letter; JSON and labels are out of play."""

    async def answer(self, version: VersionId | None, chat: Chat) -> Completion:
        found = await super().answer(version, chat)
        number = chat[-1]["content"].split()[-1]
        return found._replace(text=f"code {number}{number}!" if version else "?")


async def test_another_measure_decides_only_if_the_first_told_nothing_apart_before_the_questions(
    tmp_path: Path,
) -> None:
    """T1: exact match was 0.00 for every arm, and field accuracy told them apart."""
    numbers = written(tmp_path / "t", range(40), "code {0}{0}"), written(tmp_path / "v", range(50, 80), "code {0}{0}")
    summary, *_ = await evaluated(NobodyIsExact(), numbers)
    assert (summary.measure, summary.verdict) == ("chrF", "better")
    changed, *_ = summary.warnings
    assert changed.code == "changed_measure"
    assert changed.message.startswith("chrF decides, because exact match was 0.00 for every answer")


async def test_few_training_examples_are_all_kept_for_the_largest_prompt(tmp_path: Path) -> None:
    few = written(tmp_path / "t", range(12)), written(tmp_path / "v", range(20, 40))
    summary, _, tried, *_ = await evaluated(Model(), few)
    assert tried == []
    assert summary.rival == "base with 12 examples in its prompt"
    assert [(each.score, each.is_chosen) for each in summary.candidates] == [(None, False)] * 3 + [(None, True)]


async def test_a_prompt_and_its_answer_keep_to_the_context(files: tuple[Path, Path]) -> None:
    model = Model()
    await evaluated(model, files, max_context_tokens=300)
    lengths = [sum(len(message["content"]) for message in chat) + tokens for _, chat, tokens in model.asked]
    assert max(lengths) <= 300
    assert max(lengths) > 200


async def test_one_failure_ends_the_whole_evaluation_immediately(files: tuple[Path, Path]) -> None:
    model = BrokenModel()
    with pytest.raises(EvaluationFailed, match="refused a question"):
        await asyncio.wait_for(evaluated(model, files), 10)


async def test_a_validation_file_with_nothing_new_gives_no_result(files: tuple[Path, Path]) -> None:
    training, _ = files
    assert await Evaluator(Model(), CharacterTokens(), 2000, 10).evaluate(VERSION, None, training, training) is None


class ForgetfulModel(Model):
    """The version that the training went on from knows one of three labels."""

    async def answer(self, version: VersionId | None, chat: Chat) -> Completion:
        completion = await super().answer(version, chat)
        return completion._replace(text="label 0") if version == START_VERSION else completion


class RemovedStart(Model):
    async def answer(self, version: VersionId | None, chat: Chat) -> Completion:
        if version == START_VERSION:
            raise EvaluationFailed("A question of the comparison was refused: there is no such version")
        return await super().answer(version, chat)


async def test_an_adapter_is_compared_with_the_one_that_its_training_went_on_from(files: tuple[Path, Path]) -> None:
    summary, answers, *_ = await evaluated(ForgetfulModel(), files, start=START_VERSION)
    assert len(answers) == 4 * 25
    assert summary.start is not None
    assert summary.start.gain.estimate == pytest.approx(1 - summary.arms[START].scores["label accuracy"].estimate)
    assert summary.start.verdict == "better"
    assert summary.confidence == pytest.approx(0.975)
    assert summary.sentence.endswith(summary.start.sentence)
    assert "the adapter is better than the adapter it went on from by" in summary.start.sentence.lower()


async def test_a_start_that_was_removed_meanwhile_does_not_cost_the_comparison_with_the_base(
    files: tuple[Path, Path],
) -> None:
    summary, answers, *_ = await evaluated(RemovedStart(), files, start=START_VERSION)
    assert len(answers) == 3 * 25
    assert summary.start is None
    assert summary.confidence == pytest.approx(0.95)


@pytest.mark.parametrize("is_parallel", [True, False])
async def test_questions_allow_several_calls_as_their_lines_do(tmp_path: Path, is_parallel: bool) -> None:
    model, paths = Model(), []
    for name, numbers in (("t", range(30)), ("v", range(40, 60))):
        lines = written(tmp_path / name, numbers).read_text().splitlines()
        changed = [json.dumps(json.loads(line) | {"parallel_tool_calls": is_parallel}) for line in lines]
        paths.append(tmp_path / f"{name}-calls")
        paths[-1].write_text("\n".join(changed))
    await evaluated(model, (paths[0], paths[1]))
    assert model.parallel == {is_parallel}
