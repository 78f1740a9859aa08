"""Descriptions of Llama-shaped bases for quick tests; tests/e2e compares one with what the libraries say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.models import BaseSpec


@dataclass(frozen=True)
class LlamaSizes:
    """The sizes in a Llama's config.json."""

    hidden_size: int = 16
    intermediate_size: int = 24
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 4
    num_hidden_layers: int = 3
    vocab_size: int = 64

    @property
    def linear_modules(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear modules of a layer, by their paths in it."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return {
            "self_attn.q_proj": (hidden, queries),
            "self_attn.k_proj": (hidden, keys),
            "self_attn.v_proj": (hidden, keys),
            "self_attn.o_proj": (queries, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }


def llama_base(sizes: LlamaSizes, name: str = "tiny", **changes: Any) -> BaseDescription:
    """Return the description of a Llama with these sizes."""
    modules = {
        f"model.layers.{layer}.{path}": TargetModule(inputs=inputs, outputs=outputs)
        for layer in range(sizes.num_hidden_layers)
        for path, (inputs, outputs) in sizes.linear_modules.items()
    }
    layer_parameters = sum(module.inputs * module.outputs for module in modules.values())
    modules["lm_head"] = TargetModule(inputs=sizes.hidden_size, outputs=sizes.vocab_size, is_head=True)
    modules["model.embed_tokens"] = TargetModule(inputs=sizes.vocab_size, outputs=sizes.hidden_size, kind="embedding")
    spec = BaseSpec(
        name=name,
        architecture="LlamaForCausalLM",
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        vocab_size=sizes.vocab_size,
    )
    fields = {"spec": spec, "parameters": layer_parameters + sizes.vocab_size * sizes.hidden_size}
    return BaseDescription.of(modules, **(fields | changes))


def write_weights(folder: Path, sizes: LlamaSizes) -> None:
    """Write the weights of the linear modules of a Llama, all zeros."""
    weights = {
        f"model.layers.{layer}.{path}.weight": np.zeros((outputs, inputs), np.float32)
        for layer in range(sizes.num_hidden_layers)
        for path, (inputs, outputs) in sizes.linear_modules.items()
    }
    save_file(weights, folder / "model.safetensors")


SMOL = llama_base(
    LlamaSizes(
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        num_hidden_layers=30,
        vocab_size=49152,
    ),
    "SmolLM2-135M-Instruct",
)
"""The demo's base."""
