import io
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import (
    ADAPTER_FILES,
    CONFIG_FILE,
    INDEX_FILE,
    MLX_WEIGHTS_FILE,
    TEMPLATE_FILE,
    WEIGHTS_FILE,
)
from loramux_adapters.intake.sources.upload import UploadSource

CONTENT = {CONFIG_FILE: b"{}", WEIGHTS_FILE: b"w" * 3_000_000}
MAX_BYTES = {CONFIG_FILE: 10, WEIGHTS_FILE: 3_000_000}


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def _source(**changed: bytes | None) -> UploadSource:
    contents = {**CONTENT, **changed}
    return UploadSource({name: io.BytesIO(content) for name, content in contents.items() if content is not None})


def _fetch(source: UploadSource, into: Path) -> None:
    source.fetch(into, MAX_BYTES, lambda _: None)


def _fetched(into: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in into.iterdir()}


def test_the_files_that_were_sent_are_copied(into: Path) -> None:
    source = _source()
    _fetch(source, into)
    assert _fetched(into) == CONTENT
    assert source.origin == {"type": "upload"}


def test_a_file_that_was_read_before_is_copied_from_its_beginning(into: Path) -> None:
    source = _source()
    for file in source.files.values():
        file.read()
    _fetch(source, into)
    assert _fetched(into) == CONTENT


def test_files_are_taken_from_memory_and_from_disk_alike(into: Path) -> None:
    with tempfile.SpooledTemporaryFile(max_size=10) as large, tempfile.SpooledTemporaryFile(max_size=10) as small:
        large.write(CONTENT[WEIGHTS_FILE])
        small.write(CONTENT[CONFIG_FILE])
        files = {CONFIG_FILE: cast("BinaryIO", small), WEIGHTS_FILE: cast("BinaryIO", large)}
        _fetch(UploadSource(files), into)
    assert _fetched(into) == CONTENT


def test_a_file_above_the_size_limit_is_refused_before_a_byte_is_copied(into: Path) -> None:
    with pytest.raises(InvalidAdapter, match=rf"{WEIGHTS_FILE}: the file is too large"):
        _fetch(_source(**{WEIGHTS_FILE: b"w" * 3_000_001}), into)
    assert (into / WEIGHTS_FILE).stat().st_size == 0


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_missing_file_is_named(into: Path, name: str) -> None:
    with pytest.raises(InvalidAdapter, match=f"{name}: the file is missing"):
        _fetch(_source(**{name: None}), into)


def test_a_pickle_instead_of_the_weights_is_refused_by_name(into: Path) -> None:
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.bin: can run code"):
        _fetch(_source(**{WEIGHTS_FILE: None, "adapter_model.bin": b"pickle"}), into)


@pytest.mark.parametrize(
    "name", ["README.md", "../escaped", "/etc/cron.d/x", "", "a\0b", "x" * 5000, "adapter_config.json\n", "\u202egnp"]
)
def test_a_file_that_is_not_part_of_an_adapter_is_refused_and_its_name_is_never_a_path(into: Path, name: str) -> None:
    with pytest.raises(InvalidAdapter, match="the file is not part of an adapter") as caught:
        _fetch(_source(**{name: b"x"}), into)
    assert list(into.parent.rglob("*")) == [into]
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("optional", [True, False])
def test_an_optional_file_is_copied_if_it_is_wanted(into: Path, optional: bool) -> None:
    """A10: files next to the weights."""
    files = {name: io.BytesIO(content) for name, content in {**CONTENT, TEMPLATE_FILE: b"t"}.items()}
    if optional:
        UploadSource(files).fetch(into, {**MAX_BYTES, TEMPLATE_FILE: 1}, print)
        assert _fetched(into) == {**CONTENT, TEMPLATE_FILE: b"t"}
    else:
        with pytest.raises(InvalidAdapter, match="not part of an adapter"):
            UploadSource(files).fetch(into, MAX_BYTES, print)


def test_weights_in_another_form_are_copied(into: Path) -> None:
    """A12: mlx-lm, and sharded weights."""
    _fetch(_source(**{WEIGHTS_FILE: None, MLX_WEIGHTS_FILE: b"w"}), into)
    assert _fetched(into).keys() == {CONFIG_FILE, MLX_WEIGHTS_FILE}


def test_the_files_of_an_index_are_copied_and_a_missing_one_is_named(into: Path) -> None:
    """A12: sharded weights."""
    index = b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'
    shards = {WEIGHTS_FILE: None, INDEX_FILE: index, "a.safetensors": b"a"}
    with pytest.raises(InvalidAdapter, match=r"b\.safetensors: the file is missing, although the index names it"):
        _fetch(_source(**shards), into)
