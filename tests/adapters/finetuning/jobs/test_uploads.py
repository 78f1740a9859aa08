import hashlib
import io
import itertools
import tempfile
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loramux_adapters.errors import AdapterError, StoreError
from loramux_adapters.finetuning.errors import InvalidDataset
from loramux_adapters.finetuning.jobs import uploads as module
from loramux_adapters.finetuning.jobs.errors import FileTooLarge, InvalidFile, UploadNotFound, WrongUploadState
from loramux_adapters.finetuning.jobs.tables import upload_parts
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.uploads import UploadRecord, Uploads
from tests.helpers.migrated_database import migrated_database


def opened(folder: Path, engine: sa.Engine) -> tuple[TrainingFiles, Uploads]:
    """Return what a server that starts has."""
    files = TrainingFiles(engine, folder / "files")
    uploads = Uploads(engine, folder / "uploads", files)
    files.sweep()
    uploads.sweep()
    return files, uploads


@pytest.fixture
def uploads(tmp_path: Path, engine: sa.Engine) -> Uploads:
    return opened(tmp_path, engine)[1]


def accept(*_: Any) -> None:
    """Accept every file."""


def create(uploads: Uploads, size: int = 6, now: float = 1.0) -> UploadRecord:
    return uploads.create("train.json", "fine-tune", size, None, now)


def add(uploads: Uploads, upload: UploadRecord, content: bytes, now: float = 1.0) -> str:
    return uploads.add_part(upload.id, io.BytesIO(content), now).id


def on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "uploads").iterdir())


def test_the_file_consists_of_the_parts_in_the_order_of_the_completion(
    tmp_path: Path, engine: sa.Engine, uploads: Uploads
) -> None:
    upload = create(uploads)
    last, first = add(uploads, upload, b"def"), add(uploads, upload, b"abc")
    md5 = hashlib.md5(b"abcdef", usedforsecurity=False).hexdigest()
    file = uploads.complete(upload.id, [first, last], md5.upper(), 2.0, accept)
    assert (tmp_path / "files" / file.id).read_bytes() == b"abcdef"
    assert (file.filename, file.bytes, file.expires_at) == ("train.json", 6, None)
    assert uploads.get(upload.id, 2.0).status == "completed"
    assert on_disk(tmp_path) == []


def test_an_upload_goes_on_after_a_restart(tmp_path: Path, engine: sa.Engine, uploads: Uploads) -> None:
    upload = create(uploads)
    first = add(uploads, upload, b"abc")
    (tmp_path / "uploads" / "incoming-part-of-a-killed-process").touch()
    (tmp_path / "uploads" / "part-whose-record-was-not-written").touch()
    files, again = opened(tmp_path, engine)
    assert on_disk(tmp_path) == [first]
    file = again.complete(upload.id, [first, add(again, upload, b"def")], None, 2.0, accept)
    assert files.path(file.id).read_bytes() == b"abcdef"


def test_a_repeated_completion_returns_the_same_file(tmp_path: Path, uploads: Uploads) -> None:
    upload = create(uploads)
    part = add(uploads, upload, b"abcdef")
    done = uploads.complete(upload.id, [part], None, 2.0, accept)
    assert uploads.complete(upload.id, [part], None, 3.0, accept) == done
    assert len(list((tmp_path / "files").iterdir())) == 1


def test_of_two_completions_at_once_one_makes_the_file(tmp_path: Path, engine: sa.Engine, uploads: Uploads) -> None:
    upload = create(uploads)
    part = add(uploads, upload, b"abcdef")

    def complete_first(*_: Any) -> None:
        other = Thread(target=uploads.complete, args=(upload.id, [part], None, 2.0, accept))
        other.start()
        other.join()

    file = uploads.complete(upload.id, [part], None, 2.0, complete_first)
    assert file.id == uploads.get(upload.id, 2.0).file
    assert [path.name for path in (tmp_path / "files").iterdir()] == [file.id]


def test_a_file_that_the_check_refuses_leaves_the_upload_pending(tmp_path: Path, uploads: Uploads) -> None:
    upload = create(uploads)
    part = add(uploads, upload, b"abcdef")

    def refuse(_: Path, name: str) -> None:
        raise InvalidDataset(name, [(1, "empty line")])

    with pytest.raises(InvalidDataset, match=r"train\.json"):
        uploads.complete(upload.id, [part], None, 2.0, refuse)
    assert uploads.get(upload.id, 2.0).status == "pending"
    assert on_disk(tmp_path) == [part]
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize(
    ("order", "md5", "reason"),
    [
        ([0], None, "The parts have 3 bytes; expected 6"),
        ([0, 0], None, "each at most once"),
        ([0, 2], None, "expected parts of this upload"),
        ([0, 1], "0" * 32, "e80b5017098950fc58aad83c8c14978e"),
    ],
)
def test_a_completion_that_is_not_what_was_announced_is_refused(
    tmp_path: Path, uploads: Uploads, order: list[int], md5: str | None, reason: str
) -> None:
    upload, other = create(uploads), create(uploads)
    parts = [add(uploads, upload, b"abc"), add(uploads, upload, b"def"), add(uploads, other, b"def")]
    with pytest.raises(InvalidFile, match=reason):
        uploads.complete(upload.id, [parts[index] for index in order], md5, 2.0, accept)
    assert on_disk(tmp_path) == sorted(parts)


@pytest.mark.parametrize("part", ["../files/x", "/etc/passwd", "", "\x00", "part-" + "0" * 24])
def test_an_unknown_part_is_never_a_path(uploads: Uploads, part: str) -> None:
    upload = create(uploads)
    add(uploads, upload, b"abcdef")
    with pytest.raises(InvalidFile, match="expected parts of this upload"):
        uploads.complete(upload.id, [part], None, 2.0, accept)


def test_parts_are_limited_in_size_and_number(
    tmp_path: Path, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = create(uploads)
    with pytest.raises(InvalidFile, match="empty"):
        add(uploads, upload, b"")
    with pytest.raises(FileTooLarge, match="more than the whole upload"):
        add(uploads, upload, b"abcdefg")
    with monkeypatch.context() as patch, pytest.raises(FileTooLarge, match="at most 2 bytes"):
        patch.setattr(module, "MAX_PART_BYTES", 2)
        add(uploads, upload, b"abc")
    kept = [add(uploads, upload, b"abcdef") for _ in range(2)]  # a client repeats what it got no response to
    with pytest.raises(WrongUploadState, match="2 parts with 12 bytes already"):
        add(uploads, upload, b"a")
    assert on_disk(tmp_path) == sorted(kept)


def test_a_cancelled_upload_is_over_and_its_parts_are_removed(tmp_path: Path, uploads: Uploads) -> None:
    upload = create(uploads)
    part = add(uploads, upload, b"abcdef")
    assert uploads.cancel(upload.id, 2.0).status == "cancelled"
    assert on_disk(tmp_path) == []
    for change in (
        lambda: uploads.cancel(upload.id, 2.0),
        lambda: add(uploads, upload, b"x"),
        lambda: uploads.complete(upload.id, [part], None, 2.0, accept),
    ):
        with pytest.raises(WrongUploadState, match="The upload is cancelled: start another one"):
            change()


def test_an_upload_expires_after_an_hour_and_its_parts_are_removed_later(tmp_path: Path, uploads: Uploads) -> None:
    upload = create(uploads, now=0.0)
    part = add(uploads, upload, b"abcdef", now=3599.0)
    assert uploads.get(upload.id, 3600.0).status == "expired"
    with pytest.raises(WrongUploadState, match="expired"):
        uploads.complete(upload.id, [part], None, 3600.0, accept)
    uploads.delete_expired(3601.0)
    assert on_disk(tmp_path) == [part]  # a completion that began in time may still read it
    uploads.delete_expired(5000.0)
    assert on_disk(tmp_path) == []


def test_the_file_of_an_upload_expires_after_its_completion(uploads: Uploads) -> None:
    upload = uploads.create("a.jsonl", "fine-tune", 6, 3600, 0.0)
    file = uploads.complete(upload.id, [add(uploads, upload, b"abcdef")], None, 60.0, accept)
    assert file.expires_at == 3660.0


@pytest.mark.parametrize("upload", ["", "upload-" + "0" * 24, "../x", "\x00"])
def test_an_unknown_upload_is_not_found(uploads: Uploads, upload: str) -> None:
    for use in (
        lambda: uploads.get(upload, 1.0),
        lambda: uploads.cancel(upload, 1.0),
        lambda: uploads.add_part(upload, io.BytesIO(b"x"), 1.0),
        lambda: uploads.complete(upload, ["x"], None, 1.0, accept),
    ):
        with pytest.raises(UploadNotFound):
            use()


def test_a_full_disk_is_an_error_without_its_path(
    tmp_path: Path, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = create(uploads)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StoreError, match="No space left on device") as refused:
        add(uploads, upload, b"abcdef")
    assert str(tmp_path) not in str(refused.value)
    assert on_disk(tmp_path) == []


class UploadMachine(RuleBasedStateMachine):
    """Requests in any order, restarts, and time that passes: no part is lost or left, and no file is made twice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.engine = migrated_database(self.root / "db.sqlite")
        self.files, self.uploads = opened(self.root, self.engine)
        self.now = 0.0
        self.sizes: dict[str, int] = {}
        self.parts: dict[str, dict[str, bytes]] = {}
        self.completed: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(size=st.integers(1, 6))
    def create(self, size: int) -> None:
        upload = self.uploads.create("a", "fine-tune", size, None, self.now)
        self.sizes[upload.id], self.parts[upload.id] = size, {}

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), content=st.binary(max_size=7))
    def add_part(self, data: Any, content: bytes) -> None:
        upload = data.draw(st.sampled_from(sorted(self.sizes)))
        try:
            part = self.uploads.add_part(upload, io.BytesIO(content), self.now)
        except AdapterError:
            return
        self.parts[upload][part.id] = content

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def complete(self, data: Any) -> None:
        upload = data.draw(st.sampled_from(sorted(self.sizes)))
        parts = self.parts[upload]
        fitting = [
            order
            for count in range(1, 4)
            for order in itertools.permutations(list(parts)[:3], count)
            if sum(len(parts[part]) for part in order) == self.sizes[upload]
        ]
        order = data.draw(st.sampled_from(fitting)) if fitting else ("none",)
        is_pending = self.uploads.get(upload, self.now).status == "pending"
        try:
            file = self.uploads.complete(upload, order, None, self.now, accept)
        except AdapterError:
            assert not (fitting and is_pending)
            return
        assert is_pending == (file.id not in self.completed)  # else the completion is repeated
        if is_pending:
            self.completed[file.id] = b"".join(parts[part] for part in order)
        assert self.files.path(file.id).read_bytes() == self.completed[file.id]
        self.parts[upload] = {}

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        upload = data.draw(st.sampled_from(sorted(self.sizes)))
        try:
            self.uploads.cancel(upload, self.now)
        except WrongUploadState:
            return
        self.parts[upload] = {}

    @rule(seconds=st.sampled_from([60.0, 2000.0, 5000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.uploads.delete_expired(self.now)
        for upload in self.sizes:
            record = self.uploads.get(upload, self.now)
            if record.status == "expired" and record.expires_at + module._GRACE_SECONDS <= self.now:
                self.parts[upload] = {}

    @rule()
    def restart(self) -> None:
        self.files, self.uploads = opened(self.root, self.engine)

    @invariant()
    def the_disk_has_exactly_the_parts(self) -> None:
        expected = sorted(part for parts in self.parts.values() for part in parts)
        with self.engine.connect() as connection:
            assert sorted(connection.execute(sa.select(upload_parts.c.id)).scalars()) == expected
        assert on_disk(self.root) == expected
        assert sorted(path.name for path in (self.root / "files").iterdir()) == sorted(self.completed)


TestUploadMachine = UploadMachine.TestCase
TestUploadMachine.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
