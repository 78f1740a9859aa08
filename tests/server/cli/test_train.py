import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.errors import TrainerCrashed, TrainingError
from loramux_adapters.finetuning.events import Finished, Paused, Started, Step, TrainerEvent
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.training_run import TrainingRun
from loramux_server.base_model import BaseError, ResolvedBase
from loramux_server.cli import train as command
from loramux_server.cli.main import main
from tests.helpers.adapter_files import BASE

EVENTS: list[TrainerEvent] = [
    Started(examples=720, steps=90, trained_parameters=976_896, base_parameters=134_515_008, recipe=Recipe()),
    Step(step=90, steps=90, loss=0.125, tokens=12_345, seconds_left=0),
    Finished(size=1_975_600, seconds=300),
]


class FakeTrainer:
    """A launcher whose trainer yields `events`, or the first two and raises `failure`; records its run and its stop."""

    def __init__(self, failure: BaseException | None = None, events: Sequence[TrainerEvent] = EVENTS) -> None:
        self.failure, self.scripted_events = failure, events
        self.run: TrainingRun | None = None
        self.stopped = False

    @asynccontextmanager
    async def launch(self, run: TrainingRun, _folder: Path) -> AsyncIterator["FakeTrainer"]:
        self.run = run
        try:
            yield self
        finally:
            self.stopped = True

    async def events(self) -> AsyncIterator[TrainerEvent]:
        for event in self.scripted_events[:2]:
            yield event
        if self.failure:
            raise self.failure
        yield self.scripted_events[2]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Valid arguments of a training, on a base that needs no conversion."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    (tmp_path / "recipe.yaml").write_text("rank: 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "resolve_base", lambda base, *_, **__: ResolvedBase(tmp_path / base, "Tiny-Base"))
    monkeypatch.setattr(command, "describe_base", lambda *_: BASE)
    return ["train", "--data", "train.jsonl", "--recipe", "recipe.yaml", "--output", "out", "--base", "tiny"]


def invoke(arguments: list[str], trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(command, "TrainerLauncher", lambda **_: trainer)
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_the_trainer_gets_the_users_options(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = FakeTrainer()
    assert invoke(arguments, trainer, monkeypatch)[0] == 0
    assert trainer.run == TrainingRun(
        base=tmp_path / "tiny",
        description=BASE,
        data=Path("train.jsonl"),
        recipe=Recipe(rank=4),
        output=Path("out"),
        state=Path(".out.training/state"),
    )
    assert not Path(".out.training").exists()


def test_without_a_recipe_the_trainer_chooses_and_shows_one(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = [word for word in arguments if word not in {"--recipe", "recipe.yaml"}]
    trainer = FakeTrainer()
    code, _, stderr = invoke(without, trainer, monkeypatch)
    assert code == 0
    assert trainer.run
    assert trainer.run.recipe is None
    assert "rank: 8" in stderr
    assert "last_layers" not in stderr


def test_the_trained_share_of_the_base_is_printed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, stdout, stderr = invoke(arguments, FakeTrainer(), monkeypatch)
    assert "720 examples, 90 steps; training 976,896 parameters, 0.73% of the base's" in stderr
    assert stdout == ""


def test_json_has_one_line_per_event(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, stdout, _ = invoke([*arguments, "--json"], FakeTrainer(), monkeypatch)
    assert [json.loads(line) for line in stdout.splitlines()] == [event.model_dump(mode="json") for event in EVENTS]


@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        (TrainingError("the base has [no] chat template"), 2, "the base has [no] chat template"),
        (TrainerCrashed("the trainer ended with code 1"), 1, "the trainer ended with code 1"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_reported_and_sets_the_exit_code(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, failure: BaseException, code: int, reason: str
) -> None:
    trainer = FakeTrainer(failure)
    exit_code, _, stderr = invoke(arguments, trainer, monkeypatch)
    assert exit_code == code
    assert reason in stderr


def test_an_interrupt_while_printing_waits_for_the_trainers_end(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Started) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_summary", interrupted)
    trainer = FakeTrainer()
    assert invoke(arguments, trainer, monkeypatch)[0] == 130
    assert trainer.stopped


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [("train.jsonl", "{}\n", "line 1: there are no messages"), ("recipe.yaml", "rnak: 4\n", "rnak")],
)
def test_an_invalid_file_is_refused_before_the_trainer_starts(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, file: str, content: str, reason: str
) -> None:
    Path(file).write_text(content)
    trainer = FakeTrainer()
    exit_code, _, stderr = invoke(arguments, trainer, monkeypatch)
    assert (exit_code, trainer.run) == (2, None)
    assert reason in stderr


def test_ignored_keys_are_named(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.loads((tmp_path / "train.jsonl").read_text()) | {"metadata": {"source": "log"}}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    assert "train.jsonl: the key `metadata` is ignored" in invoke(arguments, FakeTrainer(), monkeypatch)[2]


@pytest.mark.parametrize("method", ["dpo", "supervised"])
def test_preference_pairs_are_read_for_dpo_only(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    answer = {"role": "assistant", "content": "Hello"}
    pair = {"input": {"messages": [{"role": "user", "content": "Hi"}]}, "preferred_output": [answer]}
    (tmp_path / "train.jsonl").write_text(json.dumps(pair | {"non_preferred_output": [answer | {"content": "Yo"}]}))
    (tmp_path / "recipe.yaml").write_text(f"method: {method}\n")
    exit_code, _, stderr = invoke(arguments, FakeTrainer(), monkeypatch)
    assert (exit_code, "line 1: it is a preference pair" in stderr) == ((0, False) if method == "dpo" else (2, True))


def test_a_missing_base_is_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> ResolvedBase:
        raise BaseError("the base 'tiny' is not there")

    monkeypatch.setattr(command, "resolve_base", missing)
    exit_code, _, stderr = invoke(arguments, FakeTrainer(), monkeypatch)
    assert exit_code == 2
    assert "the base 'tiny' is not there" in stderr


def test_a_paused_trainer_keeps_its_state_and_has_no_result(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeTrainer(events=[*EVENTS[:2], Paused(step=90)])
    code, _, stderr = invoke(arguments, trainer, monkeypatch)
    assert (code, "run the same command again" in stderr, "to serve it" in stderr) == (130, True, False)
    assert Path(".out.training").exists()


def test_the_trainer_learns_answers_to_end_as_the_generation_config_says(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    (tmp_path / "tiny" / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}")
    trainer = FakeTrainer()
    assert invoke(arguments, trainer, monkeypatch)[0] == 0
    assert trainer.run
    assert trainer.run.rendering == ChatRendering(stop_token_ids=(2, 7))


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"LORAMUX_ENGINE__DEFAULT_CHAT_TEMPLATE_KWARGS": '{"enable_thinking": false}'}, {}),
        ({}, {"chat_template.jinja": "{% for message in messages %}{% for part in message['content'] %}"}),
        ({}, {"tokenizer_config.json": json.dumps({"chat_template": '{% for part in message["content"] %}'})}),
    ],
)
def test_the_trainer_renders_conversations_as_a_server_with_the_same_settings(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: dict[str, str],
    files: dict[str, str],
) -> None:
    """T7: without the served template's settings, an adapter is trained on other prompts than it is served."""
    (tmp_path / "tiny").mkdir()
    for name, text in files.items():
        (tmp_path / "tiny" / name).write_text(text)
    asked: list[dict[str, Any]] = []

    async def render(_base: Path, name: str, options: dict[str, Any]) -> ChatRendering:
        asked.append({"name": name} | options)
        return ChatRendering(template="served")

    module = SimpleNamespace(offline_rendering=render)
    monkeypatch.setitem(sys.modules, "loramux_server.engine.offline_rendering", module)
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    trainer = FakeTrainer()
    assert invoke(arguments, trainer, monkeypatch)[0] == 0
    assert trainer.run
    assert trainer.run.rendering == ChatRendering(template="served")
    assert asked[0]["name"] == "Tiny-Base"
    assert asked[0].get("default_chat_template_kwargs") == ({"enable_thinking": False} if settings else None)
