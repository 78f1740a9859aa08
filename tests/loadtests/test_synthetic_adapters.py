import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from loramux_loadtests.synthetic_adapters import linear_shapes, module_names, write_adapter
from tests.helpers.llama_bases import LlamaSizes, write_weights

SIZES = LlamaSizes(
    hidden_size=12, intermediate_size=20, num_attention_heads=3, num_key_value_heads=1, num_hidden_layers=2
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write_weights(folder, SIZES)
    return folder


def test_an_adapter_has_the_shapes_of_its_base(tmp_path: Path, base: Path) -> None:
    folder = write_adapter(tmp_path / "a", base, seed=1, rank=2, modules=module_names(linear_shapes(base)), layers=[1])
    tensors = load_file(folder / "adapter_model.safetensors")
    shapes = {name.removeprefix("base_model.model.model.layers.1."): value.shape for name, value in tensors.items()}
    assert len(shapes) == 14
    assert shapes["self_attn.k_proj.lora_A.weight"] == (2, 12)
    assert shapes["self_attn.k_proj.lora_B.weight"] == (4, 2)
    assert shapes["mlp.down_proj.lora_A.weight"] == (2, 20)
    assert shapes["mlp.down_proj.lora_B.weight"] == (12, 2)


def test_an_adapter_is_on_every_layer_unless_told_otherwise_and_says_so(tmp_path: Path, base: Path) -> None:
    folder = write_adapter(tmp_path / "a", base, seed=1)
    assert len(load_file(folder / "adapter_model.safetensors")) == 2 * 2
    described = json.loads((folder / "adapter_config.json").read_text())
    assert (described["r"], described["target_modules"], described["layers_to_transform"]) == (1, ["down_proj"], None)


def test_every_seed_gives_a_content_of_its_own(tmp_path: Path, base: Path) -> None:
    contents = {
        (write_adapter(tmp_path / f"a{i}", base, seed=i) / "adapter_model.safetensors").read_bytes() for i in range(5)
    }
    assert len(contents) == 5
