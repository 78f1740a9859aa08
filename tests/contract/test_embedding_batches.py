"""vLLM's embedding with adapters takes batches of one row of tokens and of the shape (1, tokens) alike."""

from types import SimpleNamespace

import torch
from torch import nn
from vllm.lora.layers import VocabParallelEmbeddingWithLoRA

import loramux_server.engine.worker.extension  # noqa: F401 - installs what is tested

VOCABULARY, WIDTH = 5, 3
SLOTS = torch.tensor([1, 0, 1, 0])
"""The adapter of each token."""


def layer() -> VocabParallelEmbeddingWithLoRA:
    """An embedding of zeros with two adapters, whose rank is its width; they add a token's row of A as it is."""

    def add(y: torch.Tensor, rows: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return y.add_(rows)

    made = VocabParallelEmbeddingWithLoRA.__new__(VocabParallelEmbeddingWithLoRA)
    nn.Module.__init__(made)
    made.base_layer = nn.Embedding(VOCABULARY, WIDTH, _weight=torch.zeros(VOCABULARY, WIDTH))
    made.punica_wrapper = SimpleNamespace(_embeddings_indices=SLOTS * VOCABULARY, add_lora_embedding=add)
    made.lora_a_stacked_2d = torch.arange(2.0 * VOCABULARY * WIDTH).view(-1, WIDTH)
    made.lora_b_stacked = None
    return made


def test_each_token_gets_the_embedding_of_its_own_adapter() -> None:
    tokens = torch.tensor([4, 4, 0, 2])
    expected = layer().lora_a_stacked_2d[tokens + SLOTS * VOCABULARY]
    assert torch.equal(layer()(tokens), expected)
    assert torch.equal(layer()(tokens[None]), expected[None])
