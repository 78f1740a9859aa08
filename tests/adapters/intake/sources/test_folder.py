import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loramux_adapters.errors import AdapterError, InvalidAdapter, PathNotAllowed
from loramux_adapters.intake.content import ADAPTER_FILES, INDEX_FILE, TEMPLATE_FILE, WEIGHTS_FILE
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
    locate: Callable[[FolderSource, Path], tuple[Path, Path] | None] = FolderSource._locate

    def locate_then_swap(source: FolderSource, path: Path) -> tuple[Path, Path] | None:
        located = locate(source, path)
        (root / swapped).rename(root / "aside")
        (root / swapped).symlink_to(root.parent / "allowed-not" / ("" if swapped == "team" else "tone"))
        return located

    monkeypatch.setattr(FolderSource, "_locate", locate_then_swap)
    with pytest.raises(PathNotAllowed):
        FolderSource(root / "team" / "tone", [root]).fetch(into, MAX_BYTES, print)


@pytest.mark.parametrize("name", ADAPTER_FILES)
@pytest.mark.parametrize("target", ["../../../allowed-not/tone", "/etc/passwd", "missing", "loop", ".."])
def test_a_file_that_is_a_link_out_of_the_roots_or_to_nothing_is_refused(
    root: Path, into: Path, name: str, target: str
) -> None:
    folder = root / "team" / "tone"
    (folder / name).unlink()
    (folder / "loop").symlink_to("loop")
    (folder / name).symlink_to(f"{target}/{name}" if "allowed-not" in target else target)
    with pytest.raises(InvalidAdapter, match=r"symbolic link|is not a regular file"):
        FolderSource(folder, [root]).fetch(into, MAX_BYTES, print)
    assert name not in {path.name for path in into.iterdir()}


def hub_cache(root: Path) -> Path:
    """Move the adapter's files where the Hub's cache keeps them, and return the folder of the snapshot."""
    cache = root / "hub" / "models--org--tone"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in ADAPTER_FILES:
        (root / "team" / "tone" / name).rename(cache / "blobs" / name[::-1])
        (snapshot / name).symlink_to(f"../../blobs/{name[::-1]}")
    return snapshot


def test_the_links_of_the_hubs_cache_are_followed_inside_the_root(root: Path, into: Path) -> None:
    """A12: a snapshot in the Hub's cache."""
    contents = {name: (root / "team" / "tone" / name).read_bytes() for name in ADAPTER_FILES}
    FolderSource(hub_cache(root), [root / "hub"]).fetch(into, MAX_BYTES, print)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == contents


def test_links_are_not_followed_to_files_next_to_a_root(root: Path, into: Path) -> None:
    snapshot = hub_cache(root)
    with pytest.raises(InvalidAdapter, match="symbolic link"):
        FolderSource(snapshot, [snapshot]).fetch(into, MAX_BYTES, print)


@pytest.mark.parametrize("swapped", ["blobs", "blobs/nosj.gifnoc_retpada"])
def test_a_link_s_target_that_is_replaced_after_the_check_is_not_read(
    root: Path, into: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = hub_cache(root)
    secret = root.parent / "allowed-not" / "tone"
    (secret / "adapter_config.json").rename(secret / "nosj.gifnoc_retpada")
    locate: Callable[[FolderSource, Path], tuple[Path, Path] | None] = FolderSource._locate

    def locate_then_swap(source: FolderSource, path: Path) -> tuple[Path, Path] | None:
        located = locate(source, path)
        if path.name == "adapter_config.json":
            target = snapshot.parents[1] / swapped
            target.rename(root / "aside")
            target.symlink_to(secret if swapped == "blobs" else secret / "nosj.gifnoc_retpada")
        return located

    monkeypatch.setattr(FolderSource, "_locate", locate_then_swap)
    with pytest.raises(InvalidAdapter, match="symbolic link"):
        FolderSource(snapshot, [root]).fetch(into, MAX_BYTES, print)
    assert not list(into.iterdir())


def test_the_folders_below_that_have_an_adapter_are_named_and_links_to_others_are_not(root: Path, into: Path) -> None:
    """A12: `checkpoint-500/` below the folder that was given."""
    for step in (1000, 500, 70):
        write_adapter(root / "run" / f"checkpoint-{step}")
    (root / "run" / "logs").mkdir()
    (root / "run" / "secret").symlink_to(root.parent / "allowed-not" / "tone")
    with pytest.raises(InvalidAdapter, match=r"inside: checkpoint-70, checkpoint-500, checkpoint-1000$"):
        FolderSource(root / "run", [root]).fetch(into, MAX_BYTES, print)


def test_weights_in_several_files_are_fetched_as_their_index_says(root: Path, into: Path) -> None:
    """A12: sharded weights."""
    folder, shards = root / "team" / "tone", ("part-1.safetensors", "part-2.safetensors")
    (folder / WEIGHTS_FILE).rename(folder / shards[0])
    (folder / shards[1]).write_bytes(b"x")
    (folder / "other.safetensors").write_bytes(b"x")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    FolderSource(folder, [root]).fetch(into, MAX_BYTES, print)
    assert {path.name for path in into.iterdir()} == {"adapter_config.json", INDEX_FILE, *shards}


def test_the_size_limit_is_that_of_all_weights_together(root: Path, into: Path) -> None:
    folder = root / "team" / "tone"
    (folder / WEIGHTS_FILE).unlink()
    for shard in "ab":
        (folder / f"{shard}.safetensors").write_bytes(b"x" * 60)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    with pytest.raises(InvalidAdapter, match=r"b\.safetensors: the file is too large"):
        FolderSource(folder, [root]).fetch(into, {**MAX_BYTES, WEIGHTS_FILE: 100}, print)


@pytest.mark.parametrize(
    "shard", ["../../../allowed-not/tone/adapter_model.safetensors", "/etc/passwd", "a/b.safetensors", ".x.safetensors"]
)
def test_an_index_that_names_a_file_elsewhere_is_refused(root: Path, into: Path, shard: str) -> None:
    folder = root / "team" / "tone"
    (folder / WEIGHTS_FILE).unlink()
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(InvalidAdapter, match="weight_map names something else than a file next to it"):
        FolderSource(folder, [root]).fetch(into, MAX_BYTES, print)
    assert {path.name for path in into.iterdir()} == {"adapter_config.json", INDEX_FILE}


def test_optional_files_are_copied_if_they_are_there(root: Path, into: Path) -> None:
    """A10: files next to the weights."""
    (root / "team" / "tone" / TEMPLATE_FILE).write_text("template")
    FolderSource(root / "team" / "tone", [root]).fetch(into, {**MAX_BYTES, TEMPLATE_FILE: 8, "other": 8}, print)
    assert {path.name for path in into.iterdir()} == {*ADAPTER_FILES, TEMPLATE_FILE}


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
