from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.normalization import tensor_files
from loramux_adapters.intake.normalization.tensor_files import StoredTensor, read_stored, write_tensors

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(["<f2", "<f4"]), st.integers(1, 5), st.integers(1, 5)),
    max_size=6,
)


@SHARED_FOLDER
@given(shapes=tensors)
def test_tensors_are_written_byte_for_byte_as_the_library_writes_them(
    tmp_path: Path, shapes: dict[str, tuple[str, int, int]]
) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape).astype(dtype) for name, (dtype, *shape) in shapes.items()}
    source, target = tmp_path / "source", tmp_path / "target"
    save_file(values, source, metadata={"format": "pt"})
    target.unlink(missing_ok=True)
    write_tensors(target, read_stored([source]))
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("block", [1, 16, 8 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_transposed_tensor_is_written_as_its_transposed_values(
    tmp_path: Path, block: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "_BLOCK_BYTES", block)
    value = np.arange(7 * 5, dtype=dtype).reshape(7, 5)
    save_file({"odd": np.ones(3, np.float16), "x": value}, tmp_path / "source")
    stored = read_stored([tmp_path / "source"])["x"]
    transposed = StoredTensor(stored.file, stored.info, is_transposed=True)
    assert transposed.shape == (5, 7)
    write_tensors(tmp_path / "target", {"y": transposed})
    assert np.array_equal(load_file(tmp_path / "target")["y"], value.T)


def test_a_file_that_is_cut_off_is_refused_by_its_name(tmp_path: Path) -> None:
    save_file({"x": np.ones(4)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    with pytest.raises(InvalidAdapter, match=r"a\.safetensors: the file's size does not match its header"):
        read_stored([tmp_path / "a.safetensors"])
