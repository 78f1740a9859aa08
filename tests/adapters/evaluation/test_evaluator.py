import asyncio
from pathlib import Path

import pytest

from loramux_adapters.evaluation.evaluator import Examiner, Held, Reply
from loramux_adapters.evaluation.prompts import Chat
from loramux_adapters.finetuning.jobs.errors import TrialFailed
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from tests.adapters.evaluation.test_prompts import labelled, written
from tests.helpers.fine_tuning_jobs import Letters

VERSION = VersionId(AdapterName("tone"), parse_digest("0123456789ab"))


class Model:
    """The adapter knows it all, the base what its prompt says."""

    def __init__(self) -> None:
        self.at_once = self.most_at_once = 0
        self.asked: list[tuple[VersionId | None, Chat, int]] = []

    async def __call__(self, version: VersionId | None, chat: Chat, most_tokens: int) -> Reply:
        self.asked.append((version, chat, most_tokens))
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        number = chat[-1]["content"].split()[-1]
        knows = version is not None or len(chat) > 2
        return Reply(f"label {int(number) % 3}" if knows else "?", sum(len(m["content"]) for m in chat), 2, 0.1)


class BrokenModel(Model):
    async def __call__(self, version: VersionId | None, chat: Chat, most_tokens: int) -> Reply:
        await super().__call__(version, chat, most_tokens)
        if version:
            raise TrialFailed("The engine refused a question of the comparison.")
        await asyncio.sleep(60)
        raise AssertionError("the others are given up")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    training = written(tmp_path / "t", *(labelled(f"number {i}", f"label {i % 3}") for i in range(30)))
    return training, written(tmp_path / "v", *(labelled(f"number {i}", f"label {i % 3}") for i in range(20, 60)))


async def held(model: Model, files: tuple[Path, Path], context: int = 2000, most: int = 25) -> Held:
    found = await Examiner(model, Letters(), context, most).hold(VERSION, *files)
    assert found is not None
    return found


async def test_every_question_is_put_to_every_arm_few_at_a_time(files: tuple[Path, Path]) -> None:
    model = Model()
    trial, rows = await held(model, files)
    assert len(rows) == len(model.asked) == 3 * 25
    assert 1 < model.most_at_once <= 4
    assert {row.question for row in rows} == set(range(25))
    assert trial.left_out == 10
    assert {name: arm.scores["exact match"].mean for name, arm in trial.arms.items()} == {
        "base": 0,
        "base with 30 examples in its prompt": 1,
        "adapter": 1,
    }
    assert trial.verdict == "no difference shown"
    assert [chat for version, chat, _ in model.asked if version] == [
        chat for version, chat, _ in model.asked if version is None and len(chat) == 2
    ]


async def test_a_prompt_and_its_answer_keep_to_the_context(files: tuple[Path, Path]) -> None:
    model = Model()
    await held(model, files, context=300)
    lengths = [sum(len(message["content"]) for message in chat) + most for _, chat, most in model.asked]
    assert max(lengths) <= 300
    assert max(lengths) > 200


async def test_one_failure_ends_all_of_it_at_once(files: tuple[Path, Path]) -> None:
    model = BrokenModel()
    with pytest.raises(TrialFailed, match="refused a question"):
        await asyncio.wait_for(held(model, files), 10)


async def test_a_file_with_nothing_new_is_no_trial(files: tuple[Path, Path]) -> None:
    training, _ = files
    assert await Examiner(Model(), Letters(), 2000, 10).hold(VERSION, training, training) is None
