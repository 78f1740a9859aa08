"""Any files are normalised or refused: no other error, and what comes out stays as it is when it comes in again."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, INDEX_FILE, MLX_WEIGHTS_FILE, WEIGHTS_FILE
from loramux_adapters.intake.normalization import normalize
from tests.helpers.adapter_corruption import SMALL, SMALL_SIZES, Files, corrupted_adapters, write_files
from tests.helpers.adapter_files import lora_config, lora_tensors, split_weights, write_raw
from tests.helpers.llama_bases import write_weights
from tests.helpers.validation_oracle import accepted

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
HEADER, DATA = split_weights(lora_tensors(("q_proj", "v_proj"), (0, 1), rank=1, sizes=SMALL_SIZES))
PARTS = sorted({part for name in HEADER for part in name.split(".")})
WRAPPERS = ["_orig_mod", "default", "language_model", "lora_a", "modules_to_save", "embed_tokens", "lm_head"]
names = st.lists(st.sampled_from([*PARTS, *WRAPPERS]) | st.text(max_size=4), max_size=10).map(".".join)


def normalized(folder: Path, base_folder: Path | None = None) -> bool:
    """Normalise the files, twice; False if they are refused."""
    try:
        normalize(folder, SMALL, base_folder)
    except InvalidAdapter as error:
        assert error.message.isprintable()
        return False
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [CONFIG_FILE, WEIGHTS_FILE]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    normalize(folder, SMALL, base_folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return True


def emptied(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


@SHARED_FOLDER
@given(files=corrupted_adapters(), name=st.sampled_from([WEIGHTS_FILE, MLX_WEIGHTS_FILE]))
def test_a_corrupted_adapter_is_normalised_or_refused_safely(tmp_path: Path, files: Files, name: str) -> None:
    folder = write_files(emptied(tmp_path / "adapter"), files)
    (folder / WEIGHTS_FILE).rename(folder / name)
    if normalized(folder):
        accepted(folder, SMALL)


@pytest.mark.slow
@settings(SHARED_FOLDER, max_examples=2000)
@given(files=corrupted_adapters())
def test_the_same_holds_for_many_more_corrupted_adapters(tmp_path: Path, files: Files) -> None:
    folder = write_files(emptied(tmp_path / "adapter"), files)
    if normalized(folder):
        accepted(folder, SMALL)


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    write_weights(tmp_path / "base", SMALL_SIZES)
    return tmp_path / "base"


@SHARED_FOLDER
@given(data=st.data())
def test_any_names_are_normalised_or_refused(tmp_path: Path, base_folder: Path, data: st.DataObject) -> None:
    new = data.draw(st.lists(names, min_size=len(HEADER), max_size=len(HEADER), unique=True))
    chosen = [data.draw(st.sampled_from([name, old])) for name, old in zip(new, HEADER, strict=True)]
    header = dict(zip(chosen, HEADER.values(), strict=True))
    folder = write_raw(emptied(tmp_path / "adapter"), json.dumps(header).encode(), DATA)
    (folder / CONFIG_FILE).write_text(json.dumps(lora_config(r=1)))
    if normalized(folder, base_folder):
        accepted(folder, SMALL)


texts = st.text(max_size=8) | st.sampled_from([*HEADER, "a.safetensors", "../x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*HEADER, "x"]), inner, max_size=8),
    max_leaves=12,
)


@SHARED_FOLDER
@given(index=json_values | st.dictionaries(st.just("weight_map"), json_values, min_size=1), raw=st.none() | st.binary())
def test_any_index_is_followed_or_refused(tmp_path: Path, index: Any, raw: bytes | None) -> None:
    folder = write_raw(emptied(tmp_path / "adapter"), json.dumps(HEADER).encode(), DATA)
    (folder / CONFIG_FILE).write_text(json.dumps(lora_config(r=1)))
    (folder / WEIGHTS_FILE).rename(folder / "a.safetensors")
    (folder / INDEX_FILE).write_bytes(json.dumps(index).encode() if raw is None else raw)
    if normalized(folder):
        assert accepted(folder, SMALL)
