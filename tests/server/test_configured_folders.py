import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from loramux_adapters.intake.content import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_server import configured_folders
from loramux_server.cli import main as command
from loramux_server.cli import serve
from loramux_server.configured_folders import STATE_FILE, ConfiguredFolders, check_configured, folder_state
from loramux_server.errors import CannotStart
from loramux_server.settings import Settings
from tests.helpers.adapter_files import write_adapter

VERSION = "tone@0123456789ab"


def settings(root: Path, **adapters: Path) -> Settings:
    return Settings(base="tiny", data_dir=root / "data", allowed_roots=(root / "adapters",), adapters=adapters)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An adapter that was written long ago."""
    folder = write_adapter(tmp_path / "adapters" / "tone")
    with patch.object(configured_folders, "SETTLED_SECONDS", 0):
        yield folder


@pytest.fixture
def source(folder: Path, tmp_path: Path) -> FolderSource:
    return FolderSource(folder, [tmp_path / "adapters"])


def remembered(source: FolderSource, data_dir: Path) -> ConfiguredFolders:
    """Return the folders after a start that registered the adapter."""
    data_dir.mkdir(exist_ok=True)
    folders = ConfiguredFolders(data_dir)
    folders.remember("tone", folder_state(source), VERSION)
    folders.write()
    return ConfiguredFolders(data_dir)


def version(folders: ConfiguredFolders, source: FolderSource) -> str | None:
    return folders.version("tone", folder_state(source))


def test_a_folder_that_has_not_changed_is_not_opened_again(source: FolderSource, tmp_path: Path) -> None:
    """A14: 300 configured folders were copied, hashed twice and validated at each start."""
    folders = remembered(source, tmp_path / "data")
    with patch.object(FolderSource, "fetch", side_effect=AssertionError), patch.object(Path, "open", AssertionError):
        assert version(folders, source) == VERSION


def rewrite(path: Path) -> None:
    """Write other bytes of the same number, and set the time of the last change back."""
    before = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Put another file of the same size and times in its place."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, replace, Path.touch, lambda path: path.chmod(0o600), Path.unlink])
@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_file_that_may_have_changed_is_read_again(
    source: FolderSource, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    folders = remembered(source, tmp_path / "data")
    time.sleep(0.01)  # the clock of some file systems has ticks
    change(source.path / name)
    assert version(folders, source) is None


def test_a_new_file_or_another_folder_is_read(source: FolderSource, tmp_path: Path) -> None:
    folders = remembered(source, tmp_path / "data")
    other = FolderSource(write_adapter(tmp_path / "adapters" / "other"), source.roots)
    assert version(folders, other) is None
    (source.path / "chat_template.jinja").write_text("")
    assert version(folders, source) is None


def test_a_linked_file_that_changes_is_read_again(source: FolderSource, tmp_path: Path) -> None:
    blob = tmp_path / "adapters" / "blob"
    weights = source.path / WEIGHTS_FILE
    weights.rename(blob)
    weights.symlink_to(blob)
    folders = remembered(source, tmp_path / "data")
    assert version(folders, source) == VERSION
    rewrite(blob)
    assert version(folders, source) is None


def test_a_folder_outside_the_roots_of_this_start_is_not_unchanged(source: FolderSource, tmp_path: Path) -> None:
    folders = remembered(source, tmp_path / "data")
    assert version(folders, FolderSource(source.path, [tmp_path / "elsewhere"])) is None


def test_a_folder_that_has_just_changed_is_read_again(source: FolderSource, tmp_path: Path) -> None:
    """A second change within a tick of the file system's clock would not show."""
    with patch.object(configured_folders, "SETTLED_SECONDS", 60):
        folders = remembered(source, tmp_path / "data")
    assert version(folders, source) is None


def test_other_rules_forget_all_folders(source: FolderSource, tmp_path: Path) -> None:
    folders = remembered(source, tmp_path / "data")
    folders.apply_rules("rules", 1)
    assert version(folders, source) is None
    folders.remember("tone", folder_state(source), VERSION)
    folders.write()
    again = ConfiguredFolders(tmp_path / "data")
    again.apply_rules("rules", 1)
    assert version(again, source) == VERSION


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"folders": {"tone": 1}}', b"\xff\x00", b'{"other": 1}'])
def test_a_damaged_file_is_as_an_empty_one(source: FolderSource, tmp_path: Path, content: bytes) -> None:
    remembered(source, tmp_path / "data")
    (tmp_path / "data" / STATE_FILE).write_bytes(content)
    assert version(ConfiguredFolders(tmp_path / "data"), source) is None


def test_any_file_name_can_be_in_a_folder(source: FolderSource, tmp_path: Path) -> None:
    (source.path / os.fsdecode(b"\xff\n\xd8\x00"[:2])).write_text("")
    assert version(remembered(source, tmp_path / "data"), source) == VERSION


def test_a_missing_folder_is_refused_before_the_engine_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A16: it was unnoticed for 65 s, and then skipped."""
    monkeypatch.setenv("LORAMUX_ADAPTERS", f'{{"tone": "{tmp_path}/tone"}}')
    monkeypatch.setattr(serve, "kill_descendants", lambda: None)  # those of the tests
    result = CliRunner().invoke(command.main, ["serve", "--data-dir", str(tmp_path / "data"), "--port", "0"])
    assert result.exit_code == 2
    found = " ".join(result.stderr.split())
    assert (
        found
        == f"can't start: the adapter 'tone': the folder {tmp_path}/tone does not exist (setting LORAMUX_ADAPTERS)"
    )


def test_a_folder_without_a_config_is_refused_with_the_adapters_inside_it(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "tone" / "checkpoint-500")
    with pytest.raises(CannotStart, match=r"'tone': .*/adapters/tone is not an adapter: .*missing.*checkpoint-500"):
        check_configured(settings(tmp_path, tone=tmp_path / "adapters" / "tone"))


def test_a_folder_outside_the_roots_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "elsewhere")
    with pytest.raises(CannotStart, match=r"elsewhere is outside the allowed folders \(LORAMUX_ALLOWED_ROOTS\)"):
        check_configured(settings(tmp_path, tone=folder))


def test_a_folder_that_the_user_may_not_read_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(CannotStart, match=r"'tone': the folder .*/tone can't be read by this user"):
        check_configured(settings(tmp_path, tone=folder))


def test_of_many_missing_folders_five_are_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"a0.*a4'[^']*; and 95 more"):
        check_configured(settings(tmp_path, **{f"a{number}": tmp_path / f"a{number}" for number in range(100)}))


def test_an_adapter_that_is_only_invalid_does_not_keep_the_server_from_starting(folder: Path, tmp_path: Path) -> None:
    (folder / CONFIG_FILE).write_text("{")
    incomplete = write_adapter(tmp_path / "adapters" / "incomplete")
    (incomplete / WEIGHTS_FILE).unlink()
    check_configured(settings(tmp_path, tone=folder, incomplete=incomplete))
