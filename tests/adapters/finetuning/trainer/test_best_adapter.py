"""Early stopping in the trainer: by passes over the validation file, whose state is resumed with the training."""

from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import Finished, Started, Step, Validated, parse_event
from loramux_adapters.finetuning.training_run import TrainingRun
from tests.helpers.real_trainer import RECIPE, make_inputs, start, train, training_run
from tests.helpers.trainer_here import TrainerHere

pytestmark = pytest.mark.slow

PATIENT = RECIPE.model_copy(update={"epochs": 20, "early_stopping_patience": 2, "learning_rate": 0.05})
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation file has the wrong answers: the better the training, the worse its loss."""
    folder = make_inputs(tmp_path_factory.mktemp("stopping"))
    right = (folder / "train.jsonl").read_text()
    wrong = right.replace('"even"', '"?"').replace('"odd"', '"even"').replace('"?"', '"odd"')
    (folder / "wrong.jsonl").write_text(wrong)
    return folder


def stopping_run(folder: Path, name: str, **changes: Any) -> TrainingRun:
    run = training_run(
        folder, name, recipe=PATIENT, validation=folder / "wrong.jsonl", state=folder / name / "work" / "state"
    )
    return run.model_copy(update={"save_seconds": 0.0} | changes)


def losses(monkeypatch: pytest.MonkeyPatch, folder: Path, *values: float, **changes: Any) -> Any:
    """Train in this process with these validation losses."""
    here, given = TrainerHere(monkeypatch), iter(values)

    def fake(trainer: Any) -> None:
        def evaluate(*_: Any, **__: Any) -> dict[str, float]:
            metrics = {"eval_loss": next(given)}
            trainer.control = trainer.callback_handler.on_evaluate(
                trainer.args, trainer.state, trainer.control, metrics
            )
            return metrics

        trainer.evaluate = evaluate

    here.change_trainers(fake)
    copied: list[Path] = []

    def copy(source: Path, _: Path) -> int:
        copied.append(source)
        return 1

    monkeypatch.setattr("loramux_adapters.finetuning.trainer.training.copy_adapter", copy)
    return here.run(stopping_run(folder, "here", state=None, **changes)), copied


def test_training_stops_when_the_loss_has_not_fallen_for_too_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 steps, it is validated after 6, 12, 18, 20, 24, 30, ...: the three checkpoints are among them."""
    trained, copied = losses(monkeypatch, folder, 3.0, 2.0, 2.5, 2.0, 1.0)
    [finished] = trained.of_kind(Finished)
    assert [event.step for event in trained.of_kind(Validated)] == [6, 12, 18, 20]
    assert (finished.best_step, finished.best_loss, trained.steps[-1]) == (12, 2.0, 20)
    assert [path.name for path in copied] == ["step-12"]


def test_a_loss_that_keeps_falling_is_trained_to_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = losses(monkeypatch, folder, *(9.0 - number / 10 for number in range(20)))
    [finished] = trained.of_kind(Finished)
    assert finished.best_step == trained.steps[-1] == 60


def test_without_a_validation_file_there_is_nothing_to_stop_by(folder: Path) -> None:
    with pytest.raises(TrainingError, match="early_stopping_patience needs a validation file"):
        train(stopping_run(folder, "blind", validation=None))


def test_a_training_that_is_killed_often_stops_at_the_same_step_with_the_same_adapter(folder: Path) -> None:
    whole, again = stopping_run(folder, "whole"), stopping_run(folder, "again")
    *_, expected = train(whole)
    assert isinstance(expected, Finished)
    assert expected.best_step is not None
    for step in (expected.best_step + 1, expected.best_step + 7):
        with start(again) as child:
            for line in child.stdout or ():
                event = parse_event(line)
                if isinstance(event, Step) and event.step >= step:
                    break
            child.kill()
    started, *_, finished = train(again)
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (finished.best_step, finished.best_loss) == (expected.best_step, expected.best_loss)
    assert (again.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()
    assert [path.name for path in (folder / "again" / "work" / "best").iterdir()] == [f"step-{finished.best_step}"]


def test_a_training_that_was_over_when_it_was_killed_only_writes_its_result(folder: Path) -> None:
    """So does one whose server was killed while it published the result."""
    run = stopping_run(folder, "over")
    *_, expected = train(run)
    started, finished = train(run.model_copy(update={"output": folder / "late"}))
    assert isinstance(started, Started)
    assert isinstance(expected, Finished)
    assert isinstance(finished, Finished)
    assert (finished.best_step, finished.tokens) == (expected.best_step, expected.tokens)
    assert (folder / "late" / WEIGHTS).read_bytes() == (run.output / WEIGHTS).read_bytes()
