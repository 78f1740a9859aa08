"""What saves memory does not change what is learned, and memory that runs out costs no step; GPU-10."""

from pathlib import Path
from typing import Any

import pytest
import torch

from loramux_adapters.finetuning.errors import InsufficientMemory
from loramux_adapters.finetuning.events import Started, Validated, Warned
from loramux_adapters.finetuning.recipes.memory import MemoryStrategy
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, TrainingDevice
from tests.helpers.real_trainer import RECIPE, make_inputs, training_run
from tests.helpers.tiny_base import DESCRIPTION
from tests.helpers.trainer_here import ROOMY, TrainerHere, Training, largest_difference

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROUNDING = 1e-4
"""Of sums in float32 whose order differs, after 15 steps; a wrong weight of a part changes 1,000 times as much."""
TOKENS = (40, 10)
"""Of the longest example and its answer, as far as memory is concerned."""
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("training"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> TrainerHere:
    trainer = TrainerHere(monkeypatch)
    trainer.fix_demand(*TOKENS)
    return trainer


@pytest.fixture(scope="module")
def plain(folder: Path) -> Training:
    with pytest.MonkeyPatch.context() as patch:
        return TrainerHere(patch).run(training_run(folder, "plain", validation=folder / "train.jsonl"))


def device_for(strategy: MemoryStrategy) -> TrainingDevice:
    """A CPU whose free memory is just enough for this strategy."""
    demand = MemoryDemand(DESCRIPTION, RECIPE, *TOKENS)
    return TrainingDevice("cpu", demand.required_bytes(ROOMY, strategy), 4)


@pytest.mark.parametrize("size", [4, 2, 1])
def test_checkpointing_and_micro_batches_learn_what_whole_batches_learn(
    here: TrainerHere, folder: Path, plain: Training, size: int
) -> None:
    run = training_run(folder, f"micro-{size}", validation=folder / "train.jsonl")
    saving = here.run(run, [device_for(MemoryStrategy(size, gradient_checkpointing=True))])
    [started] = saving.of_kind(Started)
    assert started.gradient_checkpointing
    assert ("micro-batches of " in started.memory) == (size < RECIPE.batch_size)
    assert saving.losses == pytest.approx(plain.losses, rel=ROUNDING)
    assert largest_difference(saving, plain) < ROUNDING
    for found, expected in zip(saving.of_kind(Validated), plain.of_kind(Validated), strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=ROUNDING)
        assert found.token_accuracy == expected.token_accuracy
    assert saving.events[-1].tokens == plain.events[-1].tokens  # type: ignore[union-attr]


def test_a_training_resumes_with_smaller_micro_batches_where_it_stopped(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    run = training_run(folder, "resumed", state=folder / "resumed-state", validation=folder / "train.jsonl")
    first = here.run(run, pause_after=7)
    second = here.run(run, [device_for(MemoryStrategy(1, gradient_checkpointing=True))])
    assert first.steps + second.steps == plain.steps
    assert first.losses + second.losses == pytest.approx(plain.losses, rel=ROUNDING)
    assert largest_difference(second, plain) < ROUNDING


def test_a_step_that_runs_out_of_memory_is_repeated_with_half_the_micro_batch(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    here.fail_forward(OUT_OF_MEMORY, above=1)
    halved = here.run(training_run(folder, "halved", validation=folder / "train.jsonl"))
    assert [event.message for event in halved.of_kind(Warned)] == [
        "Memory ran out in step 1: it is repeated, and goes on, with 2 examples at a time",
        "Memory ran out in step 1: it is repeated, and goes on, with 1 example at a time",
    ]
    assert halved.steps == plain.steps
    assert halved.losses == pytest.approx(plain.losses, rel=ROUNDING)
    assert largest_difference(halved, plain) < ROUNDING


def test_what_a_failed_attempt_has_added_to_the_gradients_does_not_count(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    """The second part of a step fails, after the backward pass of the first."""
    strategy = MemoryStrategy(2, gradient_checkpointing=True)
    here.fail_forward(OUT_OF_MEMORY, above=1, calls=[1])
    halved = here.run(training_run(folder, "partly"), [device_for(strategy)])
    assert len(halved.of_kind(Warned)) == 1
    assert largest_difference(halved, plain) < ROUNDING


def test_memory_that_runs_out_in_the_validation_costs_no_result(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    run = training_run(folder, "validated", validation=folder / "train.jsonl")
    here.fail_forward(OUT_OF_MEMORY, above=2, calls=range(5, 7))  # the first pass begins after five steps
    halved = here.run(run)
    assert [event.message for event in halved.of_kind(Warned)] == [
        "Memory ran out in the validation after step 5: it is repeated, and goes on, with 2 examples at a time"
    ]
    found = [event.loss for event in halved.of_kind(Validated)]
    assert found == pytest.approx([event.loss for event in plain.of_kind(Validated)], rel=ROUNDING)


def test_a_single_example_that_does_not_fit_gets_checkpointing_and_then_an_answer(
    here: TrainerHere, folder: Path
) -> None:
    here.fail_forward(OUT_OF_MEMORY, above=0)
    failed = here.run(training_run(folder, "failed"))
    assert [event.message.rpartition("with ")[2] for event in failed.of_kind(Warned)] == [
        "2 examples at a time",
        "1 example at a time",
        "gradient checkpointing",
    ]
    assert isinstance(failed.error, InsufficientMemory)
    message = str(failed.error)
    assert message.startswith("memory ran out in step 1 with one example at a time, where about ")
    assert "What would fit: " in message
    assert "\n" not in message


def test_another_error_is_not_taken_for_one_of_memory(here: TrainerHere, folder: Path) -> None:
    here.fail_forward(RuntimeError("shape mismatch"), above=0)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        here.run(training_run(folder, "broken"))


def test_checkpointing_leaves_the_layers_without_an_adapter_out_of_the_backward_pass(
    here: TrainerHere, folder: Path
) -> None:
    """transformers lets the embedding require gradients, which would make the backward pass longer."""
    requires_grad: list[bool] = []

    def watch(trainer: Any) -> None:
        layer = trainer.model.get_base_model().get_decoder().layers[0]
        layer.register_forward_hook(lambda *call: requires_grad.append(torch.as_tensor(call[2]).requires_grad))

    here.change_trainers(watch)
    here.run(training_run(folder, "shallow"), [device_for(MemoryStrategy(4, gradient_checkpointing=True))])
    assert requires_grad
    assert not any(requires_grad)


def test_a_full_gpu_leads_to_the_cpu_with_a_warning(here: TrainerHere, folder: Path) -> None:
    full = TrainingDevice("cuda:0", free_bytes=100, bytes_per_parameter=2)
    trained = here.run(training_run(folder, "fallback"), [full, ROOMY])
    [warning], [started] = trained.of_kind(Warned), trained.of_kind(Started)
    assert warning.message.startswith(
        "Training runs on cpu, which is slower: it needs at least 0.3 GB of memory on cuda:0"
    )
    assert started.device == "cpu"
    assert len(trained.steps) == 15


def scale_loss(trainer: Any) -> None:
    """What accelerate does with float16 on a GPU; a CPU lets it when it is told to."""
    assert trainer.args.fp16
    assert not trainer.args.bf16
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)


def test_float16_scales_the_loss_and_learns_almost_the_same(here: TrainerHere, folder: Path, plain: Training) -> None:
    """As on a GPU that emulates bfloat16."""
    dtypes: dict[torch.dtype, bool] = {}

    def watch(trainer: Any) -> None:
        scale_loss(trainer)
        dtypes.update({parameter.dtype: parameter.requires_grad for parameter in trainer.model.parameters()})

    here.change_trainers(watch)
    here.use_dtype(torch.float16)
    half = here.run(training_run(folder, "half", served_dtype="bfloat16"))
    assert dtypes == {torch.float16: False, torch.float32: True}
    [started] = half.of_kind(Started)
    assert started.precision == "float16 (served in bfloat16)"
    assert half.losses == pytest.approx(plain.losses, rel=0.02)
    assert largest_difference(half, plain) < 0.2


def test_a_training_in_float16_resumes_on_a_device_with_another_dtype_and_back(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    run = training_run(folder, "moved", state=folder / "moved-state")
    trainings = []
    for dtype, step in ((torch.float16, 4), (torch.float32, 8), (torch.float16, None)):
        here.use_dtype(dtype)
        here.change_trainers(scale_loss if dtype is torch.float16 else lambda _: None)
        trainings.append(here.run(run, pause_after=step))
    assert [step for training in trainings for step in training.steps] == plain.steps
    assert [loss for training in trainings for loss in training.losses] == pytest.approx(plain.losses, rel=0.02)


def test_a_loss_that_float16_can_not_hold_is_said_to_be_its_fault(here: TrainerHere, folder: Path) -> None:
    here.change_trainers(scale_loss)
    here.use_dtype(torch.float16)
    failed = here.run(
        training_run(folder, "overflow", recipe=RECIPE.model_copy(update={"learning_rate": 1.0, "alpha": 4096}))
    )
    assert "or, since float16's range is small, train on the CPU" in str(failed.error)
