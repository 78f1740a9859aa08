"""A base in the shape of a real one, without weights: vLLM makes random ones, which is enough for speed."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.synthetic_adapters import module_names, write_adapter

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
RANK = 8
SMALL_LAYERS, SMALL_MODULES = 8, ("q_proj", "v_proj")
"""Layers and modules of the many small adapters: a thousand on all modules would take 80 GB of disk."""

EIGHT_B: Mapping[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
"""Llama 3 8B, except for the vocabulary, which comes from the tokenizer."""
TINY: Mapping[str, Any] = {
    **EIGHT_B,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


@dataclass(frozen=True)
class AdapterSet:
    """Folders by name: `full` adapters on all linear modules, others like them, and many `small` ones."""

    full: dict[str, Path]
    small: dict[str, Path]
    for_gaps: dict[str, Path]
    """Those that are loaded next to a stream."""


def write_base(folder: Path, tokenizer: Path, shape: Mapping[str, Any], dtype: str) -> Path:
    """Write the config of a Llama with this shape, and the tokenizer of another model.

    Raises:
        LoadTestError: there is no tokenizer.
    """
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype,
        "vocab_size": _vocabulary_size(folder / "tokenizer.json"),
        **shape,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({}, folder / "model.safetensors")  # vLLM checks that weights exist, and does not read them
    return folder


def write_adapter_set(folder: Path, base: Path, full: int, small: int, for_gaps: int) -> AdapterSet:
    """Write `full` adapters on all linear modules, `for_gaps` others, and `small` ones on a few modules."""
    config = read_config(base)
    layers = range(min(SMALL_LAYERS, config["num_hidden_layers"]))
    write = partial(write_adapter, base=base, rank=RANK, shapes=linear_shapes(config))
    everything = module_names(linear_shapes(config))
    return AdapterSet(
        {f"w{n}": write(folder / "whole" / f"w{n}", seed=n, modules=everything) for n in range(full)},
        {
            f"a{n}": write(folder / "small" / f"a{n}", seed=n, modules=SMALL_MODULES, layers=layers)
            for n in range(small)
        },
        {f"g{n}": write(folder / "gaps" / f"g{n}", seed=1000 + n, modules=everything) for n in range(for_gaps)},
    )


def read_config(base: Path) -> dict[str, Any]:
    """Return the config of a base."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    return config


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Map the path of each linear module of this page's bases to (inputs, outputs)."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    return {
        f"model.layers.{layer}.{path}": shape
        for layer in range(config["num_hidden_layers"])
        for path, shape in {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (hidden, keys),
            "self_attn.v_proj": (hidden, keys),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }.items()
    }


def _vocabulary_size(path: Path) -> int:
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        known = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
        return int(max(known)) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadTestError(f"{path} is not a tokenizer; set --tokenizer to the folder of a model ({error})") from error
