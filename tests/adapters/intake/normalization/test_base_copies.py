"""Copies of the base's weights in an adapter's files are left out; trained ones are refused by their true name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.intake.normalization import base_copies, normalize
from loramux_adapters.intake.validation import validate
from tests.helpers.adapter_files import BASE, Tensors, lora_config, lora_tensors, split_weights, write_adapter

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
BITS: dict[str, npt.DTypeLike] = {"F32": "<f4", "F16": "<f2"}


def base_tensors(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    shapes = {EMBEDDING: (64, 16), HEAD: (64, 16), NORM: (16,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def as_bfloat16(value: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to bfloat16 by torch's rule, in a way that is easy to see."""
    upper = value.view(np.uint32) >> 16
    lower = value.view(np.uint32) & 0xFFFF
    up = (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
    rounded: npt.NDArray[np.uint16] = (upper + up).astype(np.uint16)
    return rounded


def save_as(path: Path, tensors: Mapping[str, npt.NDArray[np.float32]], dtype: str) -> None:
    if dtype != "BF16":
        save_file({name: tensor.astype(BITS[dtype]) for name, tensor in tensors.items()}, path)
        return
    header, data = split_weights({name: as_bfloat16(tensor) for name, tensor in tensors.items()})
    raw = json.dumps({name: entry | {"dtype": "BF16"} for name, entry in header.items()}).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A base in two files."""
    (tmp_path / "base").mkdir()
    tensors = base_tensors()
    save_file({HEAD: tensors.pop(HEAD)}, tmp_path / "base" / "model-00001-of-00002.safetensors")
    save_file(tensors, tmp_path / "base" / "model-00002-of-00002.safetensors")
    return tmp_path / "base"


@pytest.fixture
def tied_folder(tmp_path: Path) -> Path:
    """A base whose head is its embedding."""
    (tmp_path / "tied").mkdir()
    save_file({EMBEDDING: base_tensors()[EMBEDDING]}, tmp_path / "tied" / "model.safetensors")
    return tmp_path / "tied"


def adapter(tmp_path: Path, saved: Tensors, **config: Any) -> Path:
    return write_adapter(tmp_path / "adapter", lora_config(**config), lora_tensors() | saved)


def names(folder: Path) -> set[str]:
    return set(load_file(folder / WEIGHTS_FILE))


@pytest.mark.parametrize(
    "form",
    [
        "base_model.model.{}.weight",
        "{}.weight",
        "base_model.model.{}.modules_to_save.default.weight",
        "base_model.model.{}.modules_to_save.weight",
        "base_model.model.{}.original_module.weight",
        "base_model.model.{}.base_layer.weight",
        "_orig_mod.base_model.model.{}.weight",
    ],
)
def test_copies_of_embedding_and_head_are_left_out(tmp_path: Path, base_folder: Path, form: str) -> None:
    """A13: saved embeddings equal to the base's."""
    originals = base_tensors()
    saved = {form.format(name.removesuffix(".weight")): originals[name] for name in (EMBEDDING, HEAD)}
    folder = adapter(tmp_path, saved, modules_to_save=["embed_tokens", "lm_head"])
    [note] = normalize(folder, BASE, base_folder)
    assert note.startswith("Left out, because they are copies of the base's own weights: ")
    assert all(name in note for name in saved)
    assert names(folder) == lora_tensors().keys()
    assert json.loads((folder / CONFIG_FILE).read_text())["modules_to_save"] is None
    validate(folder, BASE, max_rank=8)


def test_a_copy_of_any_other_module_is_left_out(tmp_path: Path, base_folder: Path) -> None:
    folder = adapter(tmp_path, {f"base_model.model.{NORM}": base_tensors()[NORM]}, modules_to_save=["norm"])
    normalize(folder, BASE, base_folder)
    assert names(folder) == lora_tensors().keys()
    validate(folder, BASE, max_rank=8)


def test_a_copy_of_a_tied_head_is_compared_with_the_embedding(tmp_path: Path, tied_folder: Path) -> None:
    """A13: saved embeddings equal to the base's."""
    saved = {f"base_model.model.{name}": base_tensors()[EMBEDDING] for name in (EMBEDDING, HEAD)}
    folder = adapter(tmp_path, saved)
    normalize(folder, BASE, tied_folder)
    assert names(folder) == lora_tensors().keys()


@pytest.mark.parametrize("saved", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("base", ["F32", "F16", "BF16"])
def test_copies_in_another_precision_are_copies(
    tmp_path: Path, saved: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A13: the training loaded the base in another precision, and saved it so."""
    monkeypatch.setattr(base_copies, "_ELEMENTS", 100)
    value = base_tensors()[EMBEDDING]
    (tmp_path / "base").mkdir()
    save_as(tmp_path / "base" / "model.safetensors", {EMBEDDING: value}, base)
    loaded = _as_float32(value, base)
    folder = adapter(tmp_path, {})
    save_as(folder / WEIGHTS_FILE, lora_tensors() | {EMBEDDING: loaded}, saved)
    normalize(folder, BASE, tmp_path / "base")
    assert EMBEDDING not in (folder / WEIGHTS_FILE).read_bytes().decode("latin-1")
    for place in (0, 555, 1023):
        changed = loaded.copy()
        changed.flat[place] *= 1.02
        save_as(folder / WEIGHTS_FILE, lora_tensors() | {EMBEDDING: changed}, saved)
        assert "fully trained" in refusal(folder, tmp_path / "base").problem


def _as_float32(value: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        return (as_bfloat16(value).astype(np.uint32) << 16).view(np.float32)
    return value.astype(BITS[dtype]).astype(np.float32)


def refusal(folder: Path, base_folder: Path) -> InvalidAdapter:
    with pytest.raises(InvalidAdapter) as caught:
        normalize(folder, BASE, base_folder)
    return caught.value


@pytest.mark.parametrize("name", [EMBEDDING, HEAD, NORM])
def test_a_trained_module_is_refused_by_its_true_name(tmp_path: Path, base_folder: Path, name: str) -> None:
    """A5 and A13: modules_to_save that were trained."""
    error = refusal(adapter(tmp_path, {name: base_tensors(seed=1)[name]}, modules_to_save=["x"]), base_folder)
    assert error.where == name
    assert "fully trained (modules_to_save)" in error.problem


@pytest.mark.parametrize("rows", [63, 65, 70])
@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_a_resized_vocabulary_is_refused_by_its_true_name(
    tmp_path: Path, base_folder: Path, name: str, rows: int
) -> None:
    """A13: resized embeddings."""
    error = refusal(adapter(tmp_path, {name: np.ones((rows, 16), np.float32)}), base_folder)
    assert "the vocabulary was resized" in error.problem
    assert error.found == rows


def test_modules_to_save_that_are_not_in_the_file_are_still_refused(tmp_path: Path, base_folder: Path) -> None:
    folder = adapter(tmp_path, {HEAD: base_tensors()[HEAD]}, modules_to_save=["lm_head", "score"])
    normalize(folder, BASE, base_folder)
    with pytest.raises(InvalidAdapter, match="modules_to_save"):
        validate(folder, BASE, max_rank=8)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8])
def test_a_base_that_can_t_be_read_has_no_copies(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(content)
    folder = adapter(tmp_path, {HEAD: base_tensors()[HEAD]})
    for base_folder in (tmp_path / "base", tmp_path / "none", None):
        normalize(folder, BASE, base_folder)
        with pytest.raises(InvalidAdapter, match=r"lm_head\.weight"):
            validate(folder, BASE, max_rank=8)


@pytest.mark.parametrize("shape", [(), (1,), (64,), (64, 16, 1), (16,), (1, 1)])
@pytest.mark.parametrize("name", ["model.layers.0.input_scale", EMBEDDING, NORM])
def test_tensors_of_any_shape_are_compared_or_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    """A13: scales of quantised bases are scalars."""
    (tmp_path / "base").mkdir()
    base = base_tensors() | {"model.layers.0.input_scale": np.ones((), np.float32)}
    save_file(base, tmp_path / "base" / "model.safetensors")
    folder = adapter(tmp_path, {name: np.ones(shape, np.float32)})
    if name.endswith("scale") and shape == ():
        normalize(folder, BASE, tmp_path / "base")
        assert names(folder) == lora_tensors().keys()
    else:
        assert "fully trained" in refusal(folder, tmp_path / "base").problem
