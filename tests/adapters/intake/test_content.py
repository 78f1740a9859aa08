import hashlib
import io
import os
import subprocess
from pathlib import Path

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import (
    ADAPTER_FILES,
    TEMPLATE_FILE,
    check_listing,
    content_digest,
    copy_bounded,
    hash_files,
    open_regular,
)
from tests.helpers.adapter_files import write_adapter


def test_the_digest_is_what_sha256sum_makes_of_the_files(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    listing = subprocess.run(["sha256sum", *ADAPTER_FILES], cwd=tmp_path, capture_output=True, check=True).stdout
    assert content_digest(hash_files(tmp_path)) == hashlib.sha256(listing).hexdigest()


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_one_changed_byte_in_either_file_changes_the_digest(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path)
    before = content_digest(hash_files(tmp_path))
    raw = bytearray((tmp_path / name).read_bytes())
    raw[-1] ^= 1
    (tmp_path / name).write_bytes(raw)
    assert content_digest(hash_files(tmp_path)) != before


def test_other_files_next_to_an_adapter_are_ignored() -> None:
    check_listing([*ADAPTER_FILES, "README.md", "optimizer.pt"])


@pytest.mark.parametrize(
    ("names", "where"),
    [
        ([], "adapter_config.json"),
        (["adapter_config.json"], "adapter_model.safetensors"),
        (["adapter_model.safetensors"], "adapter_config.json"),
        (["adapter_config.json", "adapter_model.bin"], "adapter_model.bin"),
        (["adapter_config.json", "adapter_model.pt"], "adapter_model.pt"),
        (["adapter_config.json", "adapter_0.pt", "adapter_model.bin", "training_args.bin"], "adapter_model.bin"),
        (["adapter_config.json", "optimizer.pt", "rng_state.pth", "training_args.bin"], "adapter_model.safetensors"),
    ],
)
def test_a_missing_file_or_a_pickle_instead_of_it_is_named(names: list[str], where: str) -> None:
    with pytest.raises(InvalidAdapter) as caught:
        check_listing(names)
    assert caught.value.where == where


def test_the_refusal_of_a_pickle_names_the_command_that_converts_it() -> None:
    """A12: a `.bin` of older PEFT releases."""
    with pytest.raises(InvalidAdapter, match="`loramux adapter convert FOLDER NEW_FOLDER`"):
        check_listing(["adapter_config.json", "adapter_model.bin"])


def test_many_adapters_below_are_named_in_part() -> None:
    """A12: `checkpoint-500/` below the folder that was given."""
    with pytest.raises(InvalidAdapter, match=r"inside: checkpoint-0, checkpoint-1, .*-4 and 95 more"):
        check_listing([], [f"checkpoint-{step}" for step in range(100)])


def test_the_digest_has_a_template_if_there_is_one(tmp_path: Path) -> None:
    """A10: an adapter's own chat template is part of its version."""
    before = content_digest(hash_files(write_adapter(tmp_path)))
    (tmp_path / TEMPLATE_FILE).write_text("template")
    assert hash_files(tmp_path).keys() == {*ADAPTER_FILES, TEMPLATE_FILE}
    assert content_digest(hash_files(tmp_path)) != before


def test_a_link_a_pipe_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, reason in (("link", "symbolic link"), ("pipe", "regular"), ("folder", "regular"), ("none", "No such")):
        with pytest.raises(InvalidAdapter, match=reason):
            open_regular(tmp_path / name)


def test_a_copy_ends_at_the_limit_even_of_a_sparse_giant(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.touch()
    os.truncate(source, 1 << 40)
    with open_regular(source) as file, pytest.raises(InvalidAdapter, match="too large"):
        copy_bounded(file, target, max_bytes=100)
    assert target.stat().st_size == 0


class _Growing(io.BytesIO):
    """A file that was empty when its size was looked at."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        super().seek(offset, whence)
        return 0


def test_a_file_that_grows_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match="too large"):
        copy_bounded(_Growing(b"x" * 101), tmp_path / "target", max_bytes=100)


def test_a_file_of_just_the_limit_is_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 100)
    with open_regular(tmp_path / "source") as file:
        copy_bounded(file, tmp_path / "target", max_bytes=100)
    assert (tmp_path / "target").read_bytes() == b"x" * 100
