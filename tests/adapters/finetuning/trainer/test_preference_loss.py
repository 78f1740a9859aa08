"""DPO with the real libraries, on a base of a few thousand parameters."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loramux_adapters.finetuning.events import Finished, Started, Step, TrainerEvent, Validated, parse_event
from loramux_adapters.finetuning.training_run import TrainingRun
from tests.helpers.preferences import write_pairs
from tests.helpers.real_trainer import RECIPE, make_inputs, start, train, training_run
from tests.helpers.trainer_here import TrainerHere, largest_difference

pytestmark = pytest.mark.slow

DPO = RECIPE.model_copy(update={"method": "dpo", "learning_rate": 0.01, "beta": 0.5})
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_inputs(tmp_path_factory.mktemp("dpo"))
    write_pairs(folder / "pairs.jsonl", step=2)  # "even" is always preferred
    write_pairs(folder / "held-out.jsonl", start=20, step=2)
    return folder


def dpo_run(folder: Path, name: str, **changes: Any) -> TrainingRun:
    run = training_run(folder, name, data=folder / "pairs.jsonl", recipe=DPO, state=folder / f"{name}-state")
    return run.model_copy(update={"save_seconds": 0.0} | changes)


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[list[TrainerEvent], Path]:
    run = dpo_run(folder, "trained", validation=folder / "held-out.jsonl", recipe=DPO.model_copy(update={"epochs": 15}))
    return train(run), run.output


def test_the_preferred_answers_become_more_likely_than_the_others(trained: tuple[list[TrainerEvent], Path]) -> None:
    passes = [event for event in trained[0] if isinstance(event, Validated)]
    assert [event.step for event in passes] == [15, 30, 45]
    assert passes[-1].loss < passes[0].loss < 0.6932
    assert passes[-1].reward_accuracy is not None
    assert passes[-1].reward_accuracy > 0.7
    assert passes[-1].reward_margin is not None
    assert passes[-1].reward_margin > 0


def test_a_step_counts_the_tokens_of_both_answers_and_the_first_loss_is_that_of_no_preference(
    trained: tuple[list[TrainerEvent], Path],
) -> None:
    started, *between = trained[0]
    assert isinstance(started, Started)
    assert (started.examples, started.steps) == (10, 45)
    first = next(event for event in between if isinstance(event, Step))
    assert first.loss == pytest.approx(0.6931, abs=1e-3)
    assert first.reward_margin == pytest.approx(0, abs=1e-3)
    assert first.accuracy is None


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_killed_training_by_dpo_resumes_and_ends_with_the_same_weights(
    folder: Path, trained: tuple[list[TrainerEvent], Path], goes_on: bool
) -> None:
    """Also with an adapter as the reference, which the saved state must not change."""
    initial = trained[1] if goes_on else None
    whole, again = (dpo_run(folder, f"{name}-{goes_on}", initial_adapter=initial) for name in ("whole", "again"))
    train(whole)
    with start(again) as child:
        for line in child.stdout or ():
            event = parse_event(line)
            if isinstance(event, Step) and event.step == 7:
                break
        child.send_signal(signal.SIGKILL)
    started, *_, finished = train(again)
    assert isinstance(started, Started)
    assert started.resumed_step >= 6
    assert isinstance(finished, Finished)
    assert (again.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()


def test_the_reference_of_a_training_that_goes_on_is_the_adapter_as_it_was(
    folder: Path, trained: tuple[list[TrainerEvent], Path]
) -> None:
    """Its first step has no margin, although the adapter it goes on from has a large one against the base."""
    run = dpo_run(folder, "further", initial_adapter=trained[1], validation=folder / "held-out.jsonl")
    started, *events = train(run)
    assert isinstance(started, Started)
    assert started.trained_parameters == trained[0][0].trained_parameters  # type: ignore[union-attr]
    first = next(event for event in events if isinstance(event, Step))
    assert first.reward_margin == pytest.approx(0, abs=1e-2)
    last = [event for event in events if isinstance(event, Validated)][-1]
    assert last.reward_margin is not None
    assert last.reward_margin > 0


def test_micro_batches_of_pairs_give_the_same_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = TrainerHere(monkeypatch)
    whole = here.run(dpo_run(folder, "here", state=None))

    def shrink(trainer: Any) -> None:
        trainer._memory.micro_batch_size = 1

    here.change_trainers(shrink)
    parts = here.run(dpo_run(folder, "parts", state=None))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert largest_difference(parts, whole) < 1e-3


def test_the_loss_is_trls_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's loss, whose logits are those of its own fused head, of the same batch with the same adapter."""
    here, checked = TrainerHere(monkeypatch), []

    def compare(trainer: Any) -> None:
        original = trainer.score

        def score(model: Any, inputs: Any) -> Any:
            scores = original(model, inputs)
            with torch.no_grad():
                theirs = trainer._compute_loss(model, dict(inputs), False)
            checked.append((float(theirs), float(scores.loss.detach()) / scores.items))
            rewards = SimpleNamespace(**{name: values[-1] for name, values in trainer._metrics["train"].items()})
            means = scores.means()
            checked.append((getattr(rewards, "rewards/margins"), means["reward_margin"]))
            # Without effect, at the first step, there are only ties, which TRL counts as wrong.
            right = getattr(rewards, "rewards/accuracies") if means["reward_margin"] else 0.5
            checked.append((right, means["reward_accuracy"]))
            trainer._metrics["train"].clear()
            return scores

        trainer.score = score

    here.change_trainers(compare)
    here.run(dpo_run(folder, "theirs", state=None))
    assert len(checked) == 45
    for theirs, ours in checked:
        assert ours == pytest.approx(theirs, abs=1e-4)
