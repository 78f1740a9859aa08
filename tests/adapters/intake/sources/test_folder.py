import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loramux_adapters.errors import AdapterError, InvalidAdapter, PathNotAllowed
from loramux_adapters.intake.content import ADAPTER_FILES, WEIGHTS_FILE
from loramux_adapters.intake.sources import folder as folder_module
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.validation import max_file_sizes
from tests.helpers.adapter_files import BASE, write_adapter

MAX_BYTES = max_file_sizes(BASE, max_rank=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "allowed" / "team" / "tone")
    write_adapter(tmp_path / "allowed-not" / "tone")
    return tmp_path / "allowed"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def test_the_adapter_s_two_files_are_copied_and_no_other(root: Path, into: Path) -> None:
    folder = root / "team" / "tone"
    (folder / "README.md").write_text("hello")
    FolderSource(folder, [root]).fetch(into, MAX_BYTES, print)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        name: (folder / name).read_bytes() for name in ADAPTER_FILES
    }


def test_a_link_inside_the_root_is_followed(root: Path, into: Path) -> None:
    (root / "latest").symlink_to("team/tone")
    FolderSource(root / "latest", [root]).fetch(into, MAX_BYTES, print)
    assert (into / WEIGHTS_FILE).exists()


def test_the_root_itself_may_be_a_link_and_a_second_root_counts(root: Path, into: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    FolderSource(root / "team" / "tone", [root.parent / "nowhere", root.parent / "alias"]).fetch(into, MAX_BYTES, print)
    assert (into / WEIGHTS_FILE).exists()


@pytest.mark.parametrize(
    "path",
    [
        "../allowed-not/tone",
        "/etc",
        "/",
        "..",
        "missing",
        "nul\0byte",
        "x" * 5000,
        "team/tone/adapter_config.json",
        "escape",
        "loop",
    ],
)
def test_a_path_outside_the_roots_and_a_missing_folder_get_the_same_error(root: Path, into: Path, path: str) -> None:
    (root / "escape").symlink_to("../allowed-not/tone")
    (root / "loop").symlink_to("loop")
    with pytest.raises(PathNotAllowed) as caught:
        FolderSource(root / path, [root]).fetch(into, MAX_BYTES, print)
    assert caught.value.message == folder_module._not_allowed().message
    assert not list(into.iterdir())


def test_without_a_root_nothing_is_allowed(root: Path, into: Path) -> None:
    with pytest.raises(PathNotAllowed):
        FolderSource(root / "team" / "tone", []).fetch(into, MAX_BYTES, print)


@pytest.mark.parametrize("swapped", ["team", "team/tone"])
def test_a_folder_replaced_by_a_link_after_the_check_is_not_read(
    root: Path, into: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locate: Callable[[FolderSource], tuple[Path, Path]] = FolderSource._locate

    def locate_then_swap(source: FolderSource) -> tuple[Path, Path]:
        located = locate(source)
        (root / swapped).rename(root / "aside")
        (root / swapped).symlink_to(root.parent / "allowed-not" / ("" if swapped == "team" else "tone"))
        return located

    monkeypatch.setattr(FolderSource, "_locate", locate_then_swap)
    with pytest.raises(PathNotAllowed):
        FolderSource(root / "team" / "tone", [root]).fetch(into, MAX_BYTES, print)


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_file_that_is_a_link_is_refused(root: Path, into: Path, name: str) -> None:
    folder = root / "team" / "tone"
    (folder / name).unlink()
    (folder / name).symlink_to(root.parent / "allowed-not" / "tone" / name)
    with pytest.raises(InvalidAdapter, match="symbolic link"):
        FolderSource(folder, [root]).fetch(into, MAX_BYTES, print)


def test_a_sparse_giant_is_refused_before_it_is_copied(root: Path, into: Path) -> None:
    folder = root / "team" / "tone"
    os.truncate(folder / WEIGHTS_FILE, 1 << 40)
    with pytest.raises(InvalidAdapter, match="too large"):
        FolderSource(folder, [root]).fetch(into, MAX_BYTES, print)
    assert (into / WEIGHTS_FILE).stat().st_size == 0


def test_errors_contain_no_path_of_the_server(root: Path, into: Path) -> None:
    (root / "team" / "tone" / WEIGHTS_FILE).unlink()
    for path in (root / "team" / "tone", root / "missing", Path("/etc")):
        with pytest.raises(AdapterError) as caught:
            FolderSource(path, [root]).fetch(into, MAX_BYTES, print)
        assert "/" not in caught.value.message
