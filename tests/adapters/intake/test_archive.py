import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import InvalidAdapter, StoreError
from loramux_adapters.intake.archive import VersionArchive, check_digest, unpack
from loramux_adapters.intake.content import CONFIG_FILE, TEMPLATE_FILE, WEIGHTS_FILE, content_digest, hash_files
from loramux_adapters.models import Manifest
from tests.helpers.registry_records import manifest

CONTENTS = {CONFIG_FILE: b'{"r": 4}', WEIGHTS_FILE: bytes(range(256)) * 9, TEMPLATE_FILE: b"{{ messages }}"}


def stored(folder: Path, contents: dict[str, bytes]) -> tuple[Path, Manifest]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = hash_files(folder)
    return folder, manifest("a1").model_copy(update={"files": files, "digest": content_digest(files)})


@pytest.mark.parametrize("names", [list(CONTENTS)[:2], list(CONTENTS)])
def test_an_archive_holds_the_files_and_nothing_about_this_machine(tmp_path: Path, names: list[str]) -> None:
    archive = VersionArchive.open(*stored(tmp_path / "version", {name: CONTENTS[name] for name in names}))
    content = b"".join(archive.read())
    assert len(content) == archive.size
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == names
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in members} == {(0, 0, "", "", 0, 0o644)}
    target = tmp_path / "target"
    target.mkdir()
    files = unpack(io.BytesIO(content), target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {name: CONTENTS[name] for name in names}
    check_digest(files, content_digest(files)[:12])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 6000))
def test_an_archive_can_be_read_from_any_byte_on(tmp_path: Path, start: int) -> None:
    if not (tmp_path / "version").exists():
        stored(tmp_path / "version", CONTENTS)
    described = manifest("a1").model_copy(update={"files": hash_files(tmp_path / "version")})
    whole = b"".join(VersionArchive.open(tmp_path / "version", described).read())
    assert b"".join(VersionArchive.open(tmp_path / "version", described).read(start)) == whole[start:]


def test_an_open_archive_outlives_the_version(tmp_path: Path) -> None:
    folder, described = stored(tmp_path / "version", CONTENTS)
    archive = VersionArchive.open(folder, described)
    for path in folder.iterdir():
        path.unlink()
    assert len(b"".join(archive.read())) == archive.size
    with pytest.raises(StoreError, match="missing"):
        VersionArchive.open(folder, described)


def test_a_file_that_becomes_shorter_ends_the_archive_with_an_error(tmp_path: Path) -> None:
    folder, described = stored(tmp_path / "version", CONTENTS)
    archive = VersionArchive.open(folder, described)
    (folder / WEIGHTS_FILE).write_bytes(b"short")
    with pytest.raises(StoreError, match="shorter"):
        b"".join(archive.read())


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    file.seek(0)
    return file


def _link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "archive",
    [
        io.BytesIO(b""),
        io.BytesIO(b"not a tar" * 100),
        _tar((tarfile.TarInfo("../escaped"), b"x")),
        _tar((tarfile.TarInfo("/etc/escaped"), b"x")),
        _tar((tarfile.TarInfo(f"x/{CONFIG_FILE}"), b"x")),
        _tar((_link(CONFIG_FILE), b"")),
        _tar((tarfile.TarInfo(CONFIG_FILE), b"1"), (tarfile.TarInfo(CONFIG_FILE), b"2")),
        _tar((tarfile.TarInfo(CONFIG_FILE), b"{}")),
        io.BytesIO(_tar((tarfile.TarInfo(CONFIG_FILE), b"x" * 2000)).getvalue()[:1000]),
    ],
)
def test_a_hostile_or_damaged_archive_is_refused_and_writes_nothing_outside(
    tmp_path: Path, archive: io.BytesIO
) -> None:
    target = tmp_path / "in" / "target"
    target.mkdir(parents=True)
    archive.seek(0)
    with pytest.raises(InvalidAdapter):
        unpack(archive, target)
    assert [path.name for path in tmp_path.rglob("*")][:2] == ["in", "target"]
    assert {path.name for path in tmp_path.rglob("*")} <= {"in", "target", CONFIG_FILE}


def test_files_of_another_version_have_another_digest(tmp_path: Path) -> None:
    folder, described = stored(tmp_path / "version", CONTENTS)
    with pytest.raises(InvalidAdapter, match="not those of the version"):
        check_digest(described.files, "0" * 12)
    check_digest(hash_files(folder), described.digest)
