"""Adapters of mlx-lm."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, MLX_WEIGHTS_FILE, WEIGHTS_FILE
from loramux_adapters.intake.normalization import declared_config, normalize
from loramux_adapters.intake.validation import validate
from loramux_adapters.intake.validation.config import parse_config
from tests.helpers.adapter_files import BASE, Tensors, as_bfloat16, lora_config, lora_tensors, split_weights

LAYERS = (1, 2)
PEFT_TENSORS = lora_tensors(layers=LAYERS)


def mlx_config(**changes: Any) -> dict[str, Any]:
    """Return a config as mlx-lm writes it: the options of the training, with `changes`."""
    return {
        "adapter_path": "adapters",
        "batch_size": 4,
        "data": "data/",
        "fine_tune_type": "lora",
        "iters": 1000,
        "learning_rate": 1e-5,
        "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 20.0},
        "lr_schedule": None,
        "mask_prompt": False,
        "model": "mlx-community/tiny",
        "num_layers": 2,
        "optimizer": "adam",
        "seed": 0,
        "train": True,
    } | changes


def mlx_tensors(tensors: Tensors = PEFT_TENSORS) -> Tensors:
    """Return tensors as mlx-lm saves them: A of (inputs, rank), B of (rank, outputs)."""
    parts = {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b"}
    renamed = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    for old, new in parts.items():
        renamed = {name.replace(old, new): tensor for name, tensor in renamed.items()}
    return {name: np.ascontiguousarray(tensor.T) for name, tensor in renamed.items()}


def write(folder: Path, config: dict[str, Any] | None = None, tensors: Tensors | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(mlx_config() if config is None else config))
    save_file(mlx_tensors() if tensors is None else tensors, folder / MLX_WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_an_adapter_of_mlx_becomes_peft_s(tmp_path: Path, prefix: str) -> None:
    """A12: mlx-lm's adapters.safetensors, converted."""
    folder = write(tmp_path, tensors={prefix + name: tensor for name, tensor in mlx_tensors().items()})
    notes = normalize(folder, BASE, None)
    assert notes == ["The adapter was converted from the format of mlx-lm."]
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    written = load_file(folder / WEIGHTS_FILE)
    assert written.keys() == PEFT_TENSORS.keys()
    assert all(np.array_equal(written[name], tensor) for name, tensor in PEFT_TENSORS.items())
    manifest = validate(folder, BASE, max_rank=8)
    assert (manifest.rank, manifest.alpha, manifest.scaling, manifest.layers) == (4, 80, 20, LAYERS)
    assert json.loads((folder / CONFIG_FILE).read_text())["peft_type"] == "LORA"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_transposed_bit_by_bit(tmp_path: Path, dtype: str) -> None:
    """A12: mlx-lm's adapters.safetensors, converted."""
    values = {name: tensor.astype(np.float16) for name, tensor in mlx_tensors().items()}
    header, data = split_weights(values) if dtype == "float16" else as_bfloat16(mlx_tensors())
    raw = json.dumps(header).encode()
    folder = write(tmp_path)
    (folder / MLX_WEIGHTS_FILE).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    normalize(folder, BASE, None)
    assert validate(folder, BASE, max_rank=8).dtypes == ("F16" if dtype == "float16" else "BF16",)
    if dtype == "float16":
        written = load_file(folder / WEIGHTS_FILE)
        assert all(np.array_equal(written[name], tensor.astype(dtype)) for name, tensor in PEFT_TENSORS.items())


def test_the_embedding_is_transposed_as_well(tmp_path: Path) -> None:
    a, b = np.arange(64 * 4.0, dtype=np.float32).reshape(64, 4) / 1e4, np.ones((4, 16), np.float32)
    folder = write(tmp_path, tensors={"model.embed_tokens.lora_a": a, "model.embed_tokens.lora_b": b})
    normalize(folder, BASE, None)
    written = load_file(folder / WEIGHTS_FILE)
    assert np.array_equal(written["base_model.model.model.embed_tokens.lora_embedding_A"], a.T)
    assert np.array_equal(written["base_model.model.model.embed_tokens.lora_embedding_B"], b.T)
    validate(folder, BASE, max_rank=8)


def test_the_declared_rank_is_known_from_the_config_alone(tmp_path: Path) -> None:
    assert parse_config(declared_config(write(tmp_path))).largest_rank == 4


def refusal(folder: Path) -> InvalidAdapter:
    with pytest.raises(InvalidAdapter) as caught:
        normalize(folder, BASE, None)
    assert (folder / MLX_WEIGHTS_FILE).exists()
    return caught.value


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fine_tune_type": "dora"}, "DoRA"),
        ({"fine_tune_type": "full"}, "fully trained"),
        ({"lora_parameters": None}, "lora_parameters"),
        ({"lora_parameters": {"rank": 4}}, "lora_parameters.scale"),
        ({"lora_parameters": {"rank": 0, "scale": 20.0}}, "lora_parameters.rank"),
        ({"lora_parameters": {"rank": "4", "scale": 20.0}}, "lora_parameters.rank"),
        ({"lora_parameters": {"rank": 10**400, "scale": 20.0}}, "lora_parameters.rank"),
        ({"lora_parameters": {"rank": 4, "scale": "NaN"}}, "lora_parameters.scale"),
        ({"lora_parameters": {"rank": 4, "scale": -1.0}}, "lora_parameters.scale"),
        ({"lora_parameters": {"rank": 4, "scale": 1e300}}, "lora_parameters.scale"),
        ({"lora_parameters": [4, 20.0]}, "lora_parameters"),
        ({"model": 5}, "model"),
        ({"lora_parameters": {"rank": 8, "alpha": 16, "scale": 10.0}}, "both scale and alpha"),
    ],
)
def test_a_config_that_is_no_lora_or_not_clear_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    """A12: DoRA and full fine-tunes of mlx-lm, and the scale whose meaning has changed."""
    error = refusal(write(tmp_path, mlx_config(**changes)))
    assert error.where == CONFIG_FILE
    assert problem in error.problem


def test_an_alpha_without_effect_leaves_no_doubt(tmp_path: Path) -> None:
    folder = write(tmp_path, mlx_config(lora_parameters={"rank": 4, "alpha": 4.0, "scale": 10.0}))
    normalize(folder, BASE, None)
    assert validate(folder, BASE, max_rank=8).scaling == 10


def test_matrices_that_are_not_transposed_are_refused(tmp_path: Path) -> None:
    tensors = mlx_tensors(lora_tensors(("v_proj",), (0,)))
    name = "model.layers.0.self_attn.v_proj.lora_b"
    assert refusal(write(tmp_path, tensors=tensors | {name: tensors[name].T.copy()})).where == name


@pytest.mark.parametrize("shape", [(16, 5), (15, 4), (4, 16), (16, 1 << 10)])
def test_matrices_of_another_size_are_refused_before_they_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    name = "model.layers.0.self_attn.q_proj.lora_a"
    error = refusal(write(tmp_path, tensors={name: np.ones(shape, np.float32)}))
    assert (error.where, error.expected, error.found) == (name, (16, 4), shape)


def test_lora_on_experts_is_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.lora_a"
    assert "experts" in refusal(write(tmp_path, tensors={name: np.ones((2, 4, 16), np.float32)})).problem


def test_tensors_of_mlx_with_a_config_of_peft_are_refused(tmp_path: Path) -> None:
    assert "lora_parameters" in refusal(write(tmp_path, lora_config())).problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    key=st.sampled_from(["fine_tune_type", "lora_parameters", "model", "rank", "scale", "alpha", "dropout"]),
    value=json_values,
)
def test_any_value_of_a_key_is_converted_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    config = mlx_config()
    (config["lora_parameters"] if key in {"rank", "scale", "alpha", "dropout"} else config)[key] = value
    for path in tmp_path.iterdir():
        path.unlink()
    try:
        normalize(write(tmp_path, config), BASE, None)
        validate(tmp_path, BASE, max_rank=8)
    except InvalidAdapter as error:
        assert error.message.isprintable()
