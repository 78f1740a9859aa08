"""Gives each token of a batch the embedding of its own adapter, whatever the batch's shape.

For architectures of which vLLM has no model of its own, such as OLMo 2, it runs that of transformers, which embeds a
batch of shape (1, tokens). vLLM's layer takes the first dimension for the tokens: all of them got the embedding of the
first one's adapter.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from vllm.lora.layers import VocabParallelEmbeddingWithLoRA


def install_flat_embeddings() -> None:
    """Make vLLM's embedding with adapters see a batch as a row of tokens."""
    VocabParallelEmbeddingWithLoRA.forward = _flattened(VocabParallelEmbeddingWithLoRA.forward)


def _flattened(forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    @wraps(forward)
    def embed(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
        embedded = forward(layer, tokens.flatten())
        return embedded.view(*tokens.shape, embedded.shape[-1])

    return embed
