import asyncio
import json
from pathlib import Path

import pytest

from loramux_adapters.evaluation.items import Chat
from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion, EvaluationResult, Evaluator
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from tests.helpers.fine_tuning_jobs import CharacterTokens

VERSION = VersionId(AdapterName("tone"), parse_digest("0123456789ab"))


def written(path: Path, numbers: range) -> Path:
    contents = [{"system": "Intent?", "user": f"number {i}", "assistant": f"label {i % 3}"} for i in numbers]
    lines = [{"messages": [{"role": role, "content": text} for role, text in chat.items()]} for chat in contents]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Model:
    """The adapter answers everything right, the base only with examples in its prompt."""

    def __init__(self) -> None:
        self.concurrency = self.max_concurrency = 0
        self.asked: list[tuple[VersionId | None, Chat, int]] = []

    async def __call__(self, version: VersionId | None, chat: Chat, max_tokens: int) -> Completion:
        self.asked.append((version, chat, max_tokens))
        self.concurrency += 1
        self.max_concurrency = max(self.concurrency, self.max_concurrency)
        await asyncio.sleep(0.001)
        self.concurrency -= 1
        number = chat[-1]["content"].split()[-1]
        is_right = version is not None or len(chat) > 2
        return Completion(f"label {int(number) % 3}" if is_right else "?", sum(len(m["content"]) for m in chat), 2, 0.1)


class BrokenModel(Model):
    async def __call__(self, version: VersionId | None, chat: Chat, max_tokens: int) -> Completion:
        await super().__call__(version, chat, max_tokens)
        if version:
            raise EvaluationFailed("The engine refused a question of the comparison.")
        await asyncio.sleep(60)
        raise AssertionError("the other requests are cancelled")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path / "t", range(30)), written(tmp_path / "v", range(20, 60))


async def evaluated(model: Model, files: tuple[Path, Path], max_context_tokens: int = 2000) -> EvaluationResult:
    evaluator = Evaluator(model, CharacterTokens(), max_context_tokens, max_questions=25)
    result = await evaluator.evaluate(VERSION, *files)
    assert result is not None
    return result


async def test_every_arm_gets_every_question_few_at_a_time(files: tuple[Path, Path]) -> None:
    model = Model()
    summary, answers = await evaluated(model, files)
    assert len(answers) == len(model.asked) == 3 * 25
    assert 1 < model.max_concurrency <= 4
    assert {answer.question for answer in answers} == set(range(25))
    assert summary.left_out == 10
    assert {name: arm.scores["exact match"].estimate for name, arm in summary.arms.items()} == {
        "base": 0,
        "base with 30 examples in its prompt": 1,
        "adapter": 1,
    }
    assert summary.verdict == "no difference shown"
    assert [chat for version, chat, _ in model.asked if version] == [
        chat for version, chat, _ in model.asked if version is None and len(chat) == 2
    ]


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
    assert await Evaluator(Model(), CharacterTokens(), 2000, 10).evaluate(VERSION, training, training) is None
