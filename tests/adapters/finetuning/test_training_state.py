import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.errors import AlreadyTraining
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.training_state import SavedState, TrainingStateStore, lock_states, training_fingerprint
from tests.helpers.adapter_files import lora_tensors, write_adapter


def save(states: TrainingStateStore, step: int) -> None:
    written = states.unfinished / f"checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "optimizer").write_text(f"moments after {step}")
    states.publish(written, step, tokens=step * 10, seconds=step / 2)


def test_an_empty_store_has_no_state_to_resume_from(tmp_path: Path) -> None:
    assert TrainingStateStore(tmp_path / "new", "mine").load_newest() is None


def test_the_newest_state_is_resumed_and_only_it_is_kept(tmp_path: Path) -> None:
    states = TrainingStateStore(tmp_path, "mine")
    for step in (3, 12, 7):
        save(states, step)
    save(states, 20)
    assert states.load_newest() == SavedState(tmp_path / "step-20", 20, tokens=200, seconds=10)
    assert (tmp_path / "step-20" / "optimizer").read_text() == "moments after 20"
    assert [path.name for path in tmp_path.iterdir()] == ["step-20"]


def test_a_state_whose_writing_was_interrupted_by_a_kill_is_not_used(tmp_path: Path) -> None:
    states = TrainingStateStore(tmp_path, "mine")
    save(states, 3)
    (states.unfinished / "checkpoint-9").mkdir()
    newest = TrainingStateStore(tmp_path, "mine").load_newest()
    assert newest is not None
    assert newest.step == 3
    assert not states.unfinished.exists()


def test_a_state_whose_removal_was_interrupted_does_not_hide_the_newer_one(tmp_path: Path) -> None:
    states = TrainingStateStore(tmp_path / "states", "mine")
    save(states, 3)
    shutil.copytree(states.folder / "step-3", tmp_path / "kept")
    save(states, 12)
    (tmp_path / "kept").rename(states.folder / "step-3")
    (states.folder / "step-3" / "optimizer").unlink()
    newest = states.load_newest()
    assert newest is not None
    assert newest.step == 12


def test_saving_the_same_step_again_keeps_the_existing_state(tmp_path: Path) -> None:
    states = TrainingStateStore(tmp_path, "mine")
    save(states, 3)
    inode = (tmp_path / "step-3").stat().st_ino
    save(states, 3)
    assert (tmp_path / "step-3").stat().st_ino == inode


def test_the_state_of_another_training_run_is_removed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(TrainingStateStore(tmp_path, "other"), 3)
    assert TrainingStateStore(tmp_path, "mine").load_newest() is None
    assert list(tmp_path.iterdir()) == []
    assert "step-3 is of another base, data or recipe" in caplog.text


@given(meta=st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_a_state_with_other_metadata_is_not_used(tmp_path_factory: pytest.TempPathFactory, meta: bytes | str) -> None:
    folder = tmp_path_factory.mktemp("states")
    (folder / "step-3").mkdir()
    (folder / "step-3" / "loramux.json").write_bytes(meta if isinstance(meta, bytes) else meta.encode())
    assert TrainingStateStore(folder, "mine").load_newest() is None


def test_a_symbolic_link_among_the_states_is_removed_but_not_its_target(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "treasure").touch()
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "step-3").symlink_to(elsewhere)
    assert TrainingStateStore(tmp_path / "states", "mine").load_newest() is None
    assert (elsewhere / "treasure").exists()


def test_a_state_folder_has_one_trainer_at_a_time(tmp_path: Path) -> None:
    with lock_states(tmp_path), pytest.raises(AlreadyTraining, match="wait for its end"), lock_states(tmp_path):
        pass
    with lock_states(tmp_path):
        pass


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"header" + b"0" * (3 << 20))
    (tmp_path / "data").write_text("one")
    return folder


def test_the_fingerprint_covers_everything_that_decides_the_result(base: Path) -> None:
    data = base.parent / "data"

    def name(
        recipe: Recipe = Recipe(),  # noqa: B008
        validation: Path | None = None,
        rendering: ChatRendering = ChatRendering(),  # noqa: B008
        initial_adapter: Path | None = None,
    ) -> str:
        return training_fingerprint(base, data, validation, recipe, rendering, initial_adapter)

    names = [name(), name(Recipe(seed=1)), name(validation=data), name(rendering=ChatRendering(template="x"))]
    assert name() == names[0]
    data.write_text("two")
    names.append(name())
    adapter = write_adapter(base.parent / "adapter", None, lora_tensors())
    names.append(name(initial_adapter=adapter))
    write_adapter(base.parent / "adapter", None, lora_tensors(seed=1))
    names.append(name(initial_adapter=adapter))
    (base / "config.json").write_text('{"rope_theta": 1}')
    names.append(name())
    (base / "chat_template.jinja").touch()
    names.append(name())
    with (base / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"1")
    names.append(name())
    assert len(set(names)) == len(names)
