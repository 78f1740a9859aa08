import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.errors import AlreadyTraining
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.training_state import SavedState, States, fingerprint, held


def save(states: States, step: int) -> None:
    written = states.unfinished / f"checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "optimizer").write_text(f"moments after {step}")
    states.publish(written, step, tokens=step * 10, seconds=step / 2)


def test_nothing_saved_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert States(tmp_path / "new", "mine").newest() is None


def test_the_newest_state_is_gone_on_from_and_only_it_is_kept(tmp_path: Path) -> None:
    states = States(tmp_path, "mine")
    for step in (3, 12, 7):
        save(states, step)
    save(states, 20)
    assert states.newest() == SavedState(tmp_path / "step-20", 20, tokens=200, seconds=10)
    assert (tmp_path / "step-20" / "optimizer").read_text() == "moments after 20"
    assert [path.name for path in tmp_path.iterdir()] == ["step-20"]


def test_what_was_being_written_when_the_trainer_was_killed_is_not_a_state(tmp_path: Path) -> None:
    states = States(tmp_path, "mine")
    save(states, 3)
    (states.unfinished / "checkpoint-9").mkdir()
    newest = States(tmp_path, "mine").newest()
    assert newest is not None
    assert newest.step == 3
    assert not states.unfinished.exists()


def test_a_state_whose_removal_was_broken_off_does_not_hide_the_newer_one(tmp_path: Path) -> None:
    states = States(tmp_path / "states", "mine")
    save(states, 3)
    shutil.copytree(states.folder / "step-3", tmp_path / "kept")
    save(states, 12)
    (tmp_path / "kept").rename(states.folder / "step-3")
    (states.folder / "step-3" / "optimizer").unlink()
    newest = states.newest()
    assert newest is not None
    assert newest.step == 12


def test_the_same_step_saved_again_leaves_the_state_in_its_place(tmp_path: Path) -> None:
    states = States(tmp_path, "mine")
    save(states, 3)
    place = (tmp_path / "step-3").stat().st_ino
    save(states, 3)
    assert (tmp_path / "step-3").stat().st_ino == place


def test_the_state_of_another_training_is_discarded_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(States(tmp_path, "other"), 3)
    assert States(tmp_path, "mine").newest() is None
    assert list(tmp_path.iterdir()) == []
    assert "step-3 is of another base, data or recipe" in caplog.text


@given(meta=st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_a_state_that_says_anything_else_is_none(tmp_path_factory: pytest.TempPathFactory, meta: bytes | str) -> None:
    folder = tmp_path_factory.mktemp("states")
    (folder / "step-3").mkdir()
    (folder / "step-3" / "loramux.json").write_bytes(meta if isinstance(meta, bytes) else meta.encode())
    assert States(folder, "mine").newest() is None


def test_a_link_among_the_states_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "treasure").touch()
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "step-3").symlink_to(elsewhere)
    assert States(tmp_path / "states", "mine").newest() is None
    assert (elsewhere / "treasure").exists()


def test_a_state_has_one_trainer_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(AlreadyTraining, match="wait until it has ended"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"header" + b"0" * (3 << 20))
    (tmp_path / "data").write_text("one")
    return folder


def test_a_training_is_named_by_all_that_decides_its_result(base: Path) -> None:
    data = base.parent / "data"

    def name(recipe: Recipe = Recipe(), validation: Path | None = None) -> str:  # noqa: B008
        return fingerprint(base, data, validation, recipe)

    names = [name(), name(Recipe(seed=1)), name(validation=data)]
    assert name() == names[0]
    data.write_text("two")
    names.append(name())
    (base / "config.json").write_text('{"rope_theta": 1}')
    names.append(name())
    (base / "chat_template.jinja").touch()
    names.append(name())
    with (base / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"1")
    names.append(name())
    assert len(set(names)) == len(names)
