import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.errors import InvalidDataset
from loramux_adapters.finetuning.jobs import training_files as module
from loramux_adapters.finetuning.jobs.errors import FileNotFound, FileTooLarge
from loramux_adapters.finetuning.jobs.ids import new_id
from loramux_adapters.finetuning.jobs.tables import files as files_table
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles


@pytest.fixture
def files(tmp_path: Path, engine: sa.Engine) -> TrainingFiles:
    kept = TrainingFiles(engine, tmp_path / "files")
    kept.sweep()
    return kept


def add(files: TrainingFiles, content: bytes = b"x", name: str = "a.jsonl", now: float = 1.0) -> str:
    return files.add(io.BytesIO(content), name, "fine-tune", now).id


def on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "files").iterdir())


def test_contents_are_unchanged_and_the_filename_is_never_a_path(files: TrainingFiles, tmp_path: Path) -> None:
    file = add(files, b"\x00\xff\n", "../../etc/passwd")
    assert files.path(file) == tmp_path / "files" / file
    assert files.path(file).read_bytes() == b"\x00\xff\n"
    assert (files.get(file).filename, files.get(file).bytes) == ("../../etc/passwd", 3)
    assert on_disk(tmp_path) == [file]


def test_a_file_that_the_check_refuses_leaves_nothing(files: TrainingFiles, tmp_path: Path) -> None:
    def refuse(*_: object) -> Mapping[str, Any]:
        raise InvalidDataset("a.jsonl", [(1, "empty line")])

    with pytest.raises(InvalidDataset):
        files.add(io.BytesIO(b"\n"), "a.jsonl", "fine-tune", 1.0, refuse)
    assert on_disk(tmp_path) == []
    assert files.list(purpose=None, after=None, limit=10, newest_first=True).items == []


def test_a_file_of_one_byte_too_many_is_refused_and_leaves_nothing(
    files: TrainingFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    add(files, b"x" * 10)
    with pytest.raises(FileTooLarge, match="at most 10 bytes"):
        add(files, b"x" * 11)
    assert len(on_disk(tmp_path)) == 1


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_the_error_of_a_full_disk_does_not_show_its_path(
    files: TrainingFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    with monkeypatch.context() as broken, pytest.raises(StoreError, match="No space left on device") as refused:
        broken.setattr(Path if call == "rename" else os, call, full)
        add(files)
    assert str(tmp_path) not in str(refused.value)
    assert on_disk(tmp_path) == []


def test_an_unreachable_database_leaves_no_file(files: TrainingFiles, tmp_path: Path, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("drop table files"))
    with pytest.raises(StoreError, match="can't be read or written"):
        add(files)
    assert on_disk(tmp_path) == []


def test_a_file_that_another_server_is_adding_is_not_swept(files: TrainingFiles) -> None:
    def sweeps(*_: object) -> None:
        files.sweep()

    record = files.add(io.BytesIO(b"x"), "a.jsonl", "fine-tune", 1.0, sweeps)
    assert files.path(record.id).read_bytes() == b"x"


def test_only_the_leftovers_of_a_killed_server_are_swept(files: TrainingFiles, tmp_path: Path) -> None:
    kept = add(files)
    for name in ("incoming-file-1", "file-0123456789abcdef01234567", "README"):
        (tmp_path / "files" / name).touch()
    files.sweep()
    assert on_disk(tmp_path) == ["README", kept]


def test_a_deleted_file_is_gone_and_cannot_be_deleted_again(files: TrainingFiles, tmp_path: Path) -> None:
    file = add(files)
    files.delete(file)
    assert on_disk(tmp_path) == []
    for action in (files.get, files.path, files.delete):
        with pytest.raises(FileNotFound):
            action(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.text(max_size=60))
def test_no_other_text_is_a_file_id(files: TrainingFiles, file: str) -> None:
    with pytest.raises(FileNotFound):
        files.path(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.integers(0, 3), min_size=1, max_size=7), size=st.integers(1, 4), newest_first=st.booleans())
def test_pages_hold_every_file_once_even_with_equal_times(
    files: TrainingFiles, engine: sa.Engine, times: list[int], size: int, newest_first: bool
) -> None:
    record = {"purpose": "fine-tune", "filename": "a.jsonl", "bytes": 1, "sha256": "0" * 64}
    added = {new_id("file"): float(at) for at in times}
    with engine.begin() as connection:
        connection.execute(sa.delete(files_table))
        connection.execute(
            sa.insert(files_table), [record | {"id": file, "created_at": at} for file, at in added.items()]
        )
    seen: list[str] = []
    has_more, after = True, None
    while has_more:
        page = files.list(purpose="fine-tune", after=after, limit=size, newest_first=newest_first)
        seen += [found.id for found in page.items]
        has_more, after = page.has_more, seen[-1]
    assert sorted(seen) == sorted(added)
    shown = [added[file] for file in seen]
    assert shown == sorted(shown, reverse=newest_first)
