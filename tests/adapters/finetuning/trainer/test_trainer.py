"""The trainer as it runs: a process of its own, with the real libraries, on a base of a few thousand parameters."""

import importlib
import io
import json
import signal
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import (
    Checkpointed,
    Event,
    Failed,
    Finished,
    Paused,
    Saved,
    Started,
    Step,
    Validated,
    parse_event,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer_process import TrainingRun, train
from tests.helpers.tiny_base import HIDDEN, INTERMEDIATE, make_base

pytestmark = pytest.mark.engine  # not the engine, but as slow: each run imports torch, PEFT and TRL

RECIPE = """
rank: 4
alpha: 8
target_modules: [q_proj, down_proj]
last_layers: 2
epochs: 5
batch_size: 4
learning_rate: 0.02
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a training file of ten conversations and a recipe."""
    place = tmp_path_factory.mktemp("training")
    make_base(place / "base")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"number {i}"},
                {"role": "assistant", "content": "even" if i % 2 == 0 else "odd"},
            ]
        }
        for i in range(10)
    ]
    (place / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "recipe.yaml").write_text(RECIPE)
    return place


def run(place: Path, *, base: str = "base", recipe: str = "recipe.yaml", output: str = "out") -> TrainingRun:
    return TrainingRun(place / base, "Tiny-Base", place / "train.jsonl", place / recipe, place / output)


def leftovers(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[list[Event], Path]:
    """What the trainer said, and where the adapter is; the folder held another file and an older adapter before."""
    output = place / "adapter"
    output.mkdir()
    for name in ("README.md", "adapter_config.json", "adapter_model.safetensors"):
        (output / name).write_text("old")
    return list(train(run(place, output="adapter"))), output


def test_progress_is_told_from_start_to_finish(trained: tuple[list[Event], Path]) -> None:
    started, *steps, finished = trained[0]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.examples, started.steps) == (10, 15)
    per_layer = 4 * (HIDDEN + HIDDEN) + 4 * (INTERMEDIATE + HIDDEN)
    assert started.trained_parameters == 2 * per_layer
    progress = [(step.step, step.loss) for step in steps if isinstance(step, Step)]
    assert [number for number, _ in progress] == list(range(1, 16))
    assert progress[-1][1] < 0.95 * progress[0][1]


def test_the_weights_are_bfloat16_of_the_layers_and_modules_in_the_recipe(trained: tuple[list[Event], Path]) -> None:
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


def test_something_was_learned_in_every_tensor(trained: tuple[list[Event], Path]) -> None:
    raw = (trained[1] / "adapter_model.safetensors").read_bytes()
    header_size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + header_size])
    del header["__metadata__"]
    for fact in header.values():
        begin, end = fact["data_offsets"]
        assert np.frombuffer(raw[8 + header_size + begin : 8 + header_size + end], np.uint16).any()  # B starts at zero


def test_the_config_names_the_base_and_no_path_of_this_machine(trained: tuple[list[Event], Path], place: Path) -> None:
    text = (trained[1] / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "Tiny-Base"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["layers_to_transform"] == [1, 2]
    assert str(place) not in text


def test_the_adapters_files_are_replaced_and_others_left_alone(trained: tuple[list[Event], Path], place: Path) -> None:
    assert sorted(path.name for path in trained[1].iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoints",
    ]
    assert (trained[1] / "README.md").read_text() == "old"
    assert leftovers(place) == []


def test_the_same_training_gives_the_same_bytes(trained: tuple[list[Event], Path], place: Path) -> None:
    list(train(run(place, output="again")))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (place / "again" / name).read_bytes() == (trained[1] / name).read_bytes()


def test_an_interrupt_leaves_what_was_there_and_nothing_else(place: Path) -> None:
    (place / "long.yaml").write_text(RECIPE.replace("epochs: 5", "epochs: 1000"))
    output = place / "interrupted"
    output.mkdir()
    (output / "adapter_config.json").write_text("old")
    command = run(place, recipe="long.yaml", output="interrupted").command
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        _wait_for("step", child.stdout or ())
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode == 130
    assert [path.name for path in output.iterdir()] == ["adapter_config.json"]
    assert (output / "adapter_config.json").read_text() == "old"
    assert leftovers(place) == []


def _wait_for(kind: str, lines: Iterable[str]) -> None:
    for line in lines:
        if json.loads(line)["event"] == kind:
            return
    raise AssertionError(f"no {kind}")


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    """The trainer in this process: what it refuses, it refuses before it trains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, about each other
        return importlib.import_module("loramux_adapters.finetuning.trainer.training")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("base", "changes", "reason"),
    [
        ("empty", {}, "empty can't be loaded as a base model"),
        ("mute", {}, "mute has no chat template"),
        ("base", {"last_layers": 4}, "the last 4 layers, but the base has 3"),
        ("base", {"max_length": 8}, r"answer 1 of the data has \d+ tokens, more than .* max_length of 8"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_reason(
    place: Path, trainer: ModuleType, base: str, changes: dict[str, int], reason: str
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    if not (place / "mute").exists():
        make_base(place / "mute", chat_template=None)
    output, said = place / "never", io.StringIO()
    with pytest.raises(TrainingError, match=reason):
        job = trainer.Job(place / base, "Tiny-Base", place / "train.jsonl", Recipe(**changes), output)
        trainer.train(job, trainer.Reporter(said))
    assert said.getvalue() == ""
    assert not output.exists()
    assert leftovers(place) == []


def kept(place: Path, name: str, epochs: int = 34) -> TrainingRun:
    """A training of three steps an epoch that saves its state after each of them."""
    recipe = f"kept-{epochs}.yaml"
    (place / recipe).write_text(RECIPE.replace("epochs: 5", f"epochs: {epochs}"))
    return replace(
        run(place, recipe=recipe, output=name),
        state=place / f"{name}-state",
        validation=place / "train.jsonl",
        save_seconds=0.0,
    )


def endless(place: Path, name: str) -> TrainingRun:
    """A training that doesn't end before the test does something about it, however slow the machine."""
    return kept(place, name, epochs=1000)


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.fixture(scope="module")
def unbroken(place: Path) -> tuple[list[Event], Path]:
    return list(train(kept(place, "unbroken"))), place / "unbroken"


def test_three_adapters_are_exported_on_the_way_and_the_last_is_the_result(
    unbroken: tuple[list[Event], Path],
) -> None:
    events, output = unbroken
    exported = [event for event in events if isinstance(event, Checkpointed)]
    assert [event.step for event in exported] == [34, 68, 102]
    assert [event.step for event in events if isinstance(event, Validated)] == [34, 68, 102]
    last = output / exported[-1].folder
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (last / name).read_bytes() == (output / name).read_bytes()
    first = output / exported[0].folder / "adapter_model.safetensors"
    assert first.read_bytes() != (output / "adapter_model.safetensors").read_bytes()


def test_what_was_validated_got_better(unbroken: tuple[list[Event], Path]) -> None:
    passes = [event for event in unbroken[0] if isinstance(event, Validated)]
    assert passes[-1].loss < passes[0].loss
    assert all(0 <= (event.token_accuracy or -1) <= 1 for event in passes)


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    unbroken: tuple[list[Event], Path], place: Path
) -> None:
    again = kept(place, "killed")
    for step in (20, 70):
        with start(again.command) as child:
            for line in child.stdout or ():
                event = parse_event(line)
                if isinstance(event, Step) and event.step >= step:
                    break
            child.kill()
    started, *_, finished = train(again)
    assert isinstance(started, Started)
    assert started.resumed_step >= 69
    assert isinstance(finished, Finished)
    whole = unbroken[0][-1]
    assert isinstance(whole, Finished)
    assert finished.tokens == whole.tokens
    weights = "adapter_model.safetensors"
    assert (place / "killed" / weights).read_bytes() == (unbroken[1] / weights).read_bytes()


def test_a_training_that_was_killed_after_its_last_step_only_writes_its_result(
    unbroken: tuple[list[Event], Path], place: Path
) -> None:
    """The unbroken one's last state is still there: it is what a kill between the last step and the result leaves."""
    started, *between, finished = train(replace(kept(place, "unbroken"), output=place / "late"))
    assert isinstance(started, Started)
    assert started.resumed_step == started.steps == 102
    assert between == []
    assert isinstance(finished, Finished)
    assert (finished.tokens, finished.size) == (unbroken[0][-1].tokens, unbroken[0][-1].size)  # type: ignore[union-attr]
    weights = "adapter_model.safetensors"
    assert (place / "late" / weights).read_bytes() == (unbroken[1] / weights).read_bytes()


def test_a_trainer_that_is_interrupted_ends_at_once(place: Path) -> None:
    with start(endless(place, "interrupted-kept").command) as child:
        _wait_for("step", child.stdout or ())
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == 130


def test_two_trainers_never_share_a_state(place: Path) -> None:
    again = endless(place, "shared")
    with start(again.command) as child:
        _wait_for("started", child.stdout or ())
        with pytest.raises(TrainingError, match="another trainer works on this training"):
            list(train(again))
        child.kill()


def test_without_a_recipe_one_is_chosen_by_the_data(place: Path) -> None:
    started = next(iter(train(replace(run(place), recipe=None, output=place / "chosen"))))
    assert isinstance(started, Started)
    assert started.recipe is not None
    assert (started.recipe.epochs, started.recipe.last_layers) == (25, 2)


def test_a_training_that_is_told_to_pause_saves_its_last_step(place: Path) -> None:
    again = endless(place, "paused")
    with start(again.command) as child:
        _wait_for("step", child.stdout or ())
        child.terminate()
        said = [parse_event(line) for line in child.stdout or ()]
    assert child.returncode == 0
    assert isinstance(said[-1], Paused)
    assert next(event for event in reversed(said) if isinstance(event, Saved)).step == said[-1].step
    assert not (place / "paused" / "adapter_config.json").exists()
    started = next(iter(train(again)))
    assert isinstance(started, Started)
    assert started.resumed_step == said[-1].step


def test_a_service_manager_that_tells_parent_and_trainer_loses_no_step(place: Path) -> None:
    """The trainer hears of it twice then: once itself, and once from its parent."""
    with start([*endless(place, "told-twice").command, "--with-parent"]) as child:
        _wait_for("step", child.stdout or ())
        child.terminate()
        child.terminate()
        said = [parse_event(line) for line in child.stdout or ()]
    assert child.returncode == 0
    assert isinstance(said[-1], Paused)


def test_a_full_disk_is_told_as_such_and_not_as_a_crash(place: Path) -> None:
    """Of the disk's room more is asked for than any disk has."""
    full = "import loramux_adapters.finetuning.trainer.command as c; c.ROOM_BYTES = 1 << 62; raise SystemExit(c.main())"
    run_of = replace(run(place, output="full"), recipe=place / "gone.yaml")
    command = [run_of.command[0], "-c", full, *run_of.command[3:]]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    [event] = map(parse_event, said.splitlines())
    assert event == Failed(message="no space is left on the disk", code="training_disk_full")


def test_a_training_pauses_when_its_parent_dies(place: Path) -> None:
    with start([*endless(place, "orphan").command, "--with-parent"]) as child:
        _wait_for("step", child.stdout or ())
        assert child.stdin is not None
        child.stdin.close()
        said = [parse_event(line) for line in child.stdout or ()]
    assert isinstance(said[-1], Paused)


def test_a_training_whose_events_nobody_reads_any_more_saves_and_ends(place: Path) -> None:
    again = endless(place, "unheard")
    with start(replace(again, save_seconds=3600.0).command) as child:
        assert child.stdout is not None
        _wait_for("step", child.stdout)
        child.stdout.close()
        assert child.wait(60) == 0
    assert [path.name for path in (place / "unheard-state").iterdir()] != []


def test_the_state_of_other_data_is_not_taken_up(place: Path) -> None:
    again = kept(place, "unbroken")
    other = place / "other.jsonl"
    other.write_text("".join((place / "train.jsonl").read_text().splitlines(keepends=True)[:9]))
    started = next(iter(train(replace(again, data=other, output=place / "other"))))
    assert isinstance(started, Started)
    assert started.resumed_step == 0
