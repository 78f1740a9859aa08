from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.jobs.concatenated_files import ConcatenatedFiles


@given(contents=st.lists(st.binary(max_size=5), max_size=5), size=st.integers(1, 7))
def test_they_are_read_one_after_the_other_and_again(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], size: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with ConcatenatedFiles(paths) as source:
        for _ in range(2):
            read = b""
            while piece := source.read(size):
                assert len(piece) <= size
                read += piece
            assert read == b"".join(contents)
            assert source.read(size) == b""
            source.rewind()


def test_a_missing_file_is_an_error_when_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with ConcatenatedFiles([tmp_path / "a", tmp_path / "b"]) as source:
        assert source.read(10) == b"a"
        with pytest.raises(FileNotFoundError):
            source.read(10)
