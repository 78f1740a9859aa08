"""Adapters that PEFT writes: the usual kinds, with random weights that change the base's answers."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from loramux_adapters.base_description import BaseDescription, layer_of


def attention_only(base: BaseDescription) -> dict[str, Any]:
    """The projections of the attention, packed or not."""
    return {"r": 4, "lora_alpha": 8, "target_modules": _targets(base, _attention(base))}


def all_linear(base: BaseDescription) -> dict[str, Any]:
    """Each linear module to which vLLM applies adapters, but the head."""
    return {"r": 8, "lora_alpha": 16, "target_modules": _targets(base, base.linear)}


def patterns(base: BaseDescription) -> dict[str, Any]:
    """Ranks and alphas of their own by suffix, by path and by expression, with rsLoRA."""
    leaves = sorted(_leaves(base.linear))
    first, last = leaves[0], leaves[-1]
    return {
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": True,
        "target_modules": _targets(base, base.linear),
        "rank_pattern": {first: 2, rf".*\.1\.(.*\.)?{last}": 8},
        "alpha_pattern": {last: 3, rf".*\.0\.(.*\.)?{first}": 5},
    }


def one_layer(base: BaseDescription) -> dict[str, Any]:
    """The last layer only, by an expression, at a rank that is no power of two."""
    last = base.spec.num_hidden_layers - 1
    paths = [path for path in base.linear if layer_of(path) == last]
    return {"r": 3, "lora_alpha": 9, "target_modules": "|".join(re.escape(path) for path in paths)}


def head(base: BaseDescription) -> dict[str, Any]:
    """The head, next to the attention."""
    heads = [path for path, module in base.served.items() if module.is_head]
    return {"r": 8, "lora_alpha": 16, "target_modules": [*heads, *_attention(base)]}


def embedding(base: BaseDescription) -> dict[str, Any]:
    """The embedding of the tokens, next to the attention."""
    embeddings = [path for path, module in base.served.items() if module.kind == "embedding"]
    return {"r": 4, "lora_alpha": 8, "target_modules": [*embeddings, *_attention(base)]}


def kinds(base: BaseDescription) -> Mapping[str, Callable[[BaseDescription], dict[str, Any]]]:
    """Return the kinds of adapters that vLLM applies to `base`, by name: none if it serves the base alone."""
    if not base.linear:
        return {}
    every = {"attention": attention_only, "all-linear": all_linear, "patterns": patterns, "one-layer": one_layer}
    ends = {
        "head": (head, any(module.is_head for module in base.served.values())),
        "embedding": (embedding, any(module.kind == "embedding" for module in base.served.values())),
    }
    return every | {name: kind for name, (kind, served) in ends.items() if served}


def save_adapter(folder: Path, model: Any, *, seed: int, **choices: Any) -> Path:
    """Add an adapter of PEFT to `model`, give it random weights, save it to `folder`, and remove it from the model."""
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **choices))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _size(name, parameter))
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def _size(name: str, parameter: torch.Tensor) -> float:
    """Return a standard deviation with which B·A has about the size of the weights that it changes."""
    if "lora_embedding" in name:  # A is (rank, tokens), and a token's row is one of its columns
        return 1.0
    return math.sqrt((1 if "lora_A" in name else 0.25) / parameter.shape[-1])


def _attention(base: BaseDescription) -> list[str]:
    return [path for path in base.linear if re.search("attn|attention", path)]


def _targets(base: BaseDescription, paths: Iterable[str]) -> list[str]:
    """Name modules by their last names, as people do, unless these name others, too, as in a vision tower."""
    chosen = sorted(paths)
    leaves = _leaves(chosen)
    named = [path for path in base.modules if path.rpartition(".")[2] in leaves]
    return sorted(leaves) if sorted(named) == chosen else chosen


def _leaves(paths: Iterable[str]) -> set[str]:
    return {path.rpartition(".")[2] for path in paths}
