"""The trainer process with the real libraries, on a base of a few thousand parameters."""

import importlib
import io
import json
import signal
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import (
    Checkpointed,
    Failed,
    Finished,
    Paused,
    Saved,
    Started,
    Step,
    TrainerEvent,
    Validated,
    parse_event,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.training_run import TrainingRun
from tests.helpers import full_disk_trainer
from tests.helpers.chat_templates import REFUSING
from tests.helpers.real_trainer import RECIPE, first_event, make_inputs, start, train, training_run, wait_for
from tests.helpers.tiny_base import HIDDEN, INTERMEDIATE, make_base

pytestmark = pytest.mark.slow  # each run imports torch, PEFT and TRL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and a training file of ten conversations."""
    return make_inputs(tmp_path_factory.mktemp("training"))


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[list[TrainerEvent], Path]:
    """The events and the output folder, which had another file and an older adapter before."""
    output = folder / "adapter"
    output.mkdir()
    for name in ("README.md", "adapter_config.json", "adapter_model.safetensors"):
        (output / name).write_text("old")
    return train(training_run(folder, "adapter")), output


def test_progress_is_reported_from_start_to_finish(trained: tuple[list[TrainerEvent], Path]) -> None:
    started, *steps, finished = trained[0]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.examples, started.steps) == (10, 15)
    per_layer = 4 * (HIDDEN + HIDDEN) + 4 * (INTERMEDIATE + HIDDEN)
    assert started.trained_parameters == 2 * per_layer
    progress = [(step.step, step.loss) for step in steps if isinstance(step, Step)]
    assert [number for number, _ in progress] == list(range(1, 16))
    assert progress[-1][1] < 0.95 * progress[0][1]


def test_the_weights_are_bfloat16_of_the_layers_and_modules_in_the_recipe(
    trained: tuple[list[TrainerEvent], Path],
) -> None:
    with safe_open(trained[1] / "adapter_model.safetensors", "numpy") as file:
        names = set(file.keys())
        types = {file.get_slice(name).get_dtype() for name in names}
        shape = file.get_slice("base_model.model.model.layers.1.mlp.down_proj.lora_A.weight").get_shape()
    assert types == {"BF16"}
    assert shape == [4, INTERMEDIATE]
    assert names == {
        f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"
        for layer in (1, 2)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for side in "AB"
    }


def test_every_tensor_was_trained(trained: tuple[list[TrainerEvent], Path]) -> None:
    raw = (trained[1] / "adapter_model.safetensors").read_bytes()
    header_size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + header_size])
    del header["__metadata__"]
    for fact in header.values():
        begin, end = fact["data_offsets"]
        assert np.frombuffer(raw[8 + header_size + begin : 8 + header_size + end], np.uint16).any()  # B starts at zero


def test_the_config_names_the_base_and_no_path_of_this_machine(
    trained: tuple[list[TrainerEvent], Path], folder: Path
) -> None:
    text = (trained[1] / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "Tiny-Base"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["layers_to_transform"] == [1, 2]
    assert str(folder) not in text


def test_the_adapters_files_are_replaced_and_others_left_alone(
    trained: tuple[list[TrainerEvent], Path], folder: Path
) -> None:
    assert sorted(path.name for path in trained[1].iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoints",
    ]
    assert (trained[1] / "README.md").read_text() == "old"
    assert leftovers(folder) == []


def test_the_same_training_gives_the_same_bytes(trained: tuple[list[TrainerEvent], Path], folder: Path) -> None:
    train(training_run(folder, "again"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (folder / "again" / name).read_bytes() == (trained[1] / name).read_bytes()


def test_an_interrupt_leaves_existing_files_and_nothing_else(folder: Path) -> None:
    output = folder / "interrupted"
    output.mkdir()
    (output / "adapter_config.json").write_text("old")
    with start(training_run(folder, "interrupted", recipe=with_epochs(1000))) as child:
        wait_for("step", child)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode == 130
    assert [path.name for path in output.iterdir()] == ["adapter_config.json"]
    assert (output / "adapter_config.json").read_text() == "old"
    assert leftovers(folder) == []


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    """The trainer's module in this process: it refuses invalid runs before it trains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about each other
        return importlib.import_module("loramux_adapters.finetuning.trainer.training")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("base", "changes", "reason"),
    [
        ("empty", {}, "empty can't be loaded as a base model"),
        ("mute", {}, "mute has no chat template"),
        ("base", {"last_layers": 4}, "last_layers is 4, but the base has only 3 layers"),
        (
            "base",
            {"max_length": 8},
            r"line 1 of train.jsonl: an answer has \d+ tokens .* at most the max_length of 8",
        ),
    ],
)
def test_an_invalid_run_is_refused_with_its_reason(
    folder: Path, trainer: ModuleType, base: str, changes: dict[str, Any], reason: str
) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    if not (folder / "mute").exists():
        make_base(folder / "mute", chat_template=None)
    output, stream = folder / "never", io.StringIO()
    with pytest.raises(TrainingError, match=reason):
        run = training_run(folder, "never", base=folder / base, recipe=Recipe(**changes))
        trainer.train(run, trainer.ProgressReporter(stream))
    assert stream.getvalue() == ""
    assert not output.exists()
    assert leftovers(folder) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("role", ["data", "validation"])
def test_a_conversation_that_the_template_refuses_is_named_by_its_line(
    folder: Path, trainer: ModuleType, role: str
) -> None:
    """A15: a system message on Gemma ended in a traceback."""
    if not (folder / "gemma").exists():
        make_base(folder / "gemma", chat_template=REFUSING)
    lines = [json.loads(line)["messages"] for line in (folder / "train.jsonl").read_text().splitlines()]
    lines[3] = [{"role": "system", "content": "Be brief"}, *lines[3]]
    data = folder / "with-system.jsonl"
    data.write_text("\n".join(json.dumps({"messages": line}) for line in lines))
    reason = r"^line 4 of with-system.jsonl: the base's chat template refuses it: System role not supported \(accepted "
    with pytest.raises(TrainingError, match=reason):
        run = training_run(folder, "never", base=folder / "gemma", **{role: data})
        trainer.train(run, trainer.ProgressReporter(io.StringIO()))


def with_epochs(epochs: int) -> Recipe:
    return RECIPE.model_copy(update={"epochs": epochs})


def resumable(folder: Path, name: str, epochs: int = 34, **changes: Any) -> TrainingRun:
    """A run of three steps per epoch that saves its state after each step."""
    defaults = {
        "recipe": with_epochs(epochs),
        "state": folder / f"{name}-state",
        "validation": folder / "train.jsonl",
        "save_seconds": 0.0,
    }
    return training_run(folder, name, **defaults | changes)


def endless(folder: Path, name: str, **changes: Any) -> TrainingRun:
    """A run that does not end before the test stops it, even on a fast machine."""
    return resumable(folder, name, epochs=1000, **changes)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> tuple[list[TrainerEvent], Path]:
    return train(resumable(folder, "uninterrupted")), folder / "uninterrupted"


def test_three_adapters_are_exported_and_the_last_one_is_the_result(
    uninterrupted: tuple[list[TrainerEvent], Path],
) -> None:
    events, output = uninterrupted
    exported = [event for event in events if isinstance(event, Checkpointed)]
    assert [event.step for event in exported] == [34, 68, 102]
    assert [event.step for event in events if isinstance(event, Validated)] == [34, 68, 102]
    last = output / exported[-1].folder
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (last / name).read_bytes() == (output / name).read_bytes()
    first = output / exported[0].folder / "adapter_model.safetensors"
    assert first.read_bytes() != (output / "adapter_model.safetensors").read_bytes()


def test_the_validation_loss_falls(uninterrupted: tuple[list[TrainerEvent], Path]) -> None:
    passes = [event for event in uninterrupted[0] if isinstance(event, Validated)]
    assert passes[-1].loss < passes[0].loss
    assert all(0 <= (event.token_accuracy or -1) <= 1 for event in passes)


def test_a_killed_training_resumes_and_ends_with_the_same_weights(
    uninterrupted: tuple[list[TrainerEvent], Path], folder: Path
) -> None:
    again = resumable(folder, "killed")
    for step in (20, 70):
        with start(again) as child:
            for line in child.stdout or ():
                event = parse_event(line)
                if isinstance(event, Step) and event.step >= step:
                    break
            child.kill()
    started, *_, finished = train(again)
    assert isinstance(started, Started)
    assert started.resumed_step >= 69
    assert isinstance(finished, Finished)
    whole = uninterrupted[0][-1]
    assert isinstance(whole, Finished)
    assert finished.tokens == whole.tokens
    weights = "adapter_model.safetensors"
    assert (folder / "killed" / weights).read_bytes() == (uninterrupted[1] / weights).read_bytes()


def test_a_training_that_was_killed_after_its_last_step_only_writes_its_result(
    uninterrupted: tuple[list[TrainerEvent], Path], folder: Path
) -> None:
    """The last state of the uninterrupted run is what a kill between the last step and the result leaves."""
    started, *between, finished = train(resumable(folder, "uninterrupted", output=folder / "late"))
    assert isinstance(started, Started)
    assert started.resumed_step == started.steps == 102
    assert between == []
    assert isinstance(finished, Finished)
    assert (finished.tokens, finished.size) == (uninterrupted[0][-1].tokens, uninterrupted[0][-1].size)  # type: ignore[union-attr]
    weights = "adapter_model.safetensors"
    assert (folder / "late" / weights).read_bytes() == (uninterrupted[1] / weights).read_bytes()


def test_an_interrupted_trainer_exits_without_finishing_its_step(folder: Path) -> None:
    with start(endless(folder, "interrupted-kept")) as child:
        wait_for("step", child)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == 130


def test_two_trainers_never_share_a_state(folder: Path) -> None:
    again = endless(folder, "shared")
    with start(again) as child:
        wait_for("started", child)
        with pytest.raises(TrainingError, match="another trainer is running this training"):
            train(again)
        child.kill()


def test_without_a_recipe_one_is_chosen_by_the_data(folder: Path) -> None:
    started = first_event(training_run(folder, "chosen", recipe=None))
    assert isinstance(started, Started)
    assert started.recipe is not None
    assert (started.recipe.epochs, started.recipe.last_layers) == (25, 2)


def test_a_training_that_is_asked_to_pause_saves_its_last_step(folder: Path) -> None:
    again = endless(folder, "paused")
    with start(again) as child:
        wait_for("step", child)
        child.terminate()
        events = [parse_event(line) for line in child.stdout or ()]
    assert child.returncode == 0
    assert isinstance(events[-1], Paused)
    assert next(event for event in reversed(events) if isinstance(event, Saved)).step == events[-1].step
    assert not (folder / "paused" / "adapter_config.json").exists()
    started = first_event(again)
    assert isinstance(started, Started)
    assert started.resumed_step == events[-1].step


def test_two_sigterms_lose_no_step(folder: Path) -> None:
    """A service manager signals the parent, which signals the trainer, and the trainer itself."""
    with start(endless(folder, "two-signals")) as child:
        wait_for("step", child)
        child.terminate()
        child.terminate()
        events = [parse_event(line) for line in child.stdout or ()]
    assert child.returncode == 0
    assert isinstance(events[-1], Paused)


def test_a_full_disk_is_reported_and_is_not_a_crash(folder: Path) -> None:
    run = training_run(folder, "full", data=folder / "missing.jsonl")
    with start(run, (sys.executable, full_disk_trainer.__file__ or "")) as child:
        [event] = map(parse_event, child.stdout or ())
    assert event == Failed(message="no space is left on the disk", code="training_disk_full")


def test_a_training_pauses_when_its_parent_dies(folder: Path) -> None:
    with start(endless(folder, "orphan")) as child:
        wait_for("step", child)
        assert child.stdin is not None
        child.stdin.close()
        events = [parse_event(line) for line in child.stdout or ()]
    assert isinstance(events[-1], Paused)


def test_a_training_whose_events_are_no_longer_read_saves_and_exits(folder: Path) -> None:
    with start(endless(folder, "unread", save_seconds=3600.0)) as child:
        assert child.stdout is not None
        wait_for("step", child)
        child.stdout.close()
        assert child.wait(60) == 0
    assert [path.name for path in (folder / "unread-state").iterdir()] != []


def test_a_state_of_other_data_is_not_resumed(folder: Path) -> None:
    other = folder / "other.jsonl"
    other.write_text("".join((folder / "train.jsonl").read_text().splitlines(keepends=True)[:9]))
    started = first_event(resumable(folder, "uninterrupted", data=other, output=folder / "other"))
    assert isinstance(started, Started)
    assert started.resumed_step == 0
