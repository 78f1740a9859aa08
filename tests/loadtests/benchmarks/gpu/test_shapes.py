import json
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks.gpu.shapes import EIGHT_B, RANK, TINY, write_adapter_set, write_base
from loramux_loadtests.loadtest.errors import LoadTestError

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 7}}, "added_tokens": [{"id": 9}]}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"weights that are left where they are")
    return folder


def test_a_base_has_the_requested_shape_and_anothers_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    base = write_base(tmp_path / "base", tokenizer, EIGHT_B, "bfloat16")
    config = json.loads((base / "config.json").read_text())
    assert config["vocab_size"] == 10
    assert (config["hidden_size"], config["num_hidden_layers"], config["torch_dtype"]) == (4096, 32, "bfloat16")
    assert (base / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (base / "model.safetensors").stat().st_size < 100


def test_adapters_are_on_all_modules_or_small(tmp_path: Path, tokenizer: Path) -> None:
    base = write_base(tmp_path / "base", tokenizer, TINY, "float32")
    found = write_adapter_set(tmp_path / "adapters", base, full=2, small=3, for_gaps=1)
    assert (set(found.full), set(found.small), set(found.for_gaps)) == ({"w0", "w1"}, {"a0", "a1", "a2"}, {"g0"})
    for folder, modules in ((found.full["w1"], 7), (found.small["a2"], 2)):
        with safe_open(folder / "adapter_model.safetensors", "np") as tensors:
            assert len(tensors.keys()) == 2 * TINY["num_hidden_layers"] * modules
            assert min(tensors.get_tensor(next(iter(tensors.keys()))).shape) == RANK


@pytest.mark.parametrize("content", [None, "", "[]", '{"model": {}}', '{"model": {"vocab": []}, "added_tokens": []}'])
def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "none").mkdir()
    if content is not None:
        (tmp_path / "none" / "tokenizer.json").write_text(content)
    with pytest.raises(LoadTestError, match="is not a tokenizer; set --tokenizer to the folder of a model"):
        write_base(tmp_path / "base", tmp_path / "none", TINY, "float32")
