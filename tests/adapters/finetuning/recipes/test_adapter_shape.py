import json
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.finetuning.recipes.adapter_shape import AdapterShape, read_adapter_shape
from tests.helpers.adapter_files import BASE, lora_config

LAYERS = BASE.spec.num_hidden_layers


def shape(folder: Path, **changes: Any) -> AdapterShape:
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(**changes)))
    return read_adapter_shape(folder, BASE)


def test_the_shape_is_that_of_the_config(tmp_path: Path) -> None:
    assert shape(tmp_path) == (4, 8, ("q_proj", "v_proj"), None)


def test_layers_are_counted_from_the_first_one_with_an_adapter(tmp_path: Path) -> None:
    assert shape(tmp_path, layers_to_transform=[LAYERS - 1]).last_layers == 1
    assert shape(tmp_path, layers_to_transform=[0]).last_layers is None


def test_of_different_ranks_the_largest_counts(tmp_path: Path) -> None:
    assert shape(tmp_path, rank_pattern={"v_proj": 9}).rank == 9


def test_an_adapter_without_a_linear_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="changes no linear module of the base"):
        shape(tmp_path, target_modules=["embed_tokens"])


def test_an_adapter_of_the_head_is_refused_before_trl_refuses_to_train_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"changes the base's head \(lm_head\).*train a new adapter"):
        shape(tmp_path, target_modules=["q_proj", "lm_head"])


@pytest.mark.parametrize("text", ["", "[]", '{"r": 4}', '{"peft_type": "LORA", "r": -1, "lora_alpha": 1}'])
def test_a_malformed_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(InvalidAdapter):
        read_adapter_shape(tmp_path, BASE)
