"""Small random bases with the chat templates of reasoning models, which an adapter can learn a dozen answers on."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.helpers.chat_templates import write_tokenizer

HIDDEN, INTERMEDIATE, LAYERS, HEADS = 128, 256, 2, 2
COLORS = ("red", "green", "blue", "black", "white", "grey", "pink", "gold", "teal", "brown", "violet", "orange")
RECIPE = {"rank": 16, "alpha": 32, "epochs": 100, "batch_size": 12, "learning_rate": 0.008}
"""Learns all twelve answers by heart, in seconds."""


def write_reasoning_base(folder: Path, chat_template: str, context: int = 256) -> Path:
    """Write a Llama of random weights with a byte-level tokenizer and a chat template to `folder`."""
    vocabulary = write_tokenizer(folder, chat_template)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, shape[-1] ** -0.5, shape) for name, shape in _matrices(vocabulary).items()}
    weights["model.embed_tokens.weight"] *= HIDDEN**0.5
    norms = [
        f"model.layers.{layer}.{name}"
        for layer in range(LAYERS)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    weights |= {f"{name}.weight": np.ones(HIDDEN) for name in (*norms, "model.norm")}
    save_file(
        {name: weight.astype(np.float32) for name, weight in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def _matrices(vocabulary: int) -> dict[str, tuple[int, int]]:
    shapes = {"model.embed_tokens.weight": (vocabulary, HIDDEN), "lm_head.weight": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"model.layers.{layer}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            shapes[f"model.layers.{layer}.mlp.{name}.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    return shapes


def training_lines() -> bytes:
    """Return a training file: which color has each of twelve numbers?"""
    return _lines(answers())


def validation_lines() -> bytes:
    """Return a file of the same form whose questions and answers are not in the training file."""
    return _lines({f"color {number}?": f"dark {color}" for number, color in enumerate(COLORS, start=50)})


def answers() -> dict[str, str]:
    """Return the answers of the training file, by question."""
    return {f"color {number}?": color for number, color in enumerate(COLORS)}


def _lines(answers: dict[str, str]) -> bytes:
    lines = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in answers.items()
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
