"""Bases with random weights, as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from tests.helpers.chat_templates import CHATML, write_tokenizer
from tests.helpers.tiny_bases.configs import VOCABULARY, shrunk


def write_base(folder: Path, architecture: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write a small base of `architecture`, with `changes` to its config, a tokenizer and a chat template."""
    model = random_model(architecture, seed=seed, **changes)
    model.save_pretrained(folder)
    assert write_tokenizer(folder, CHATML) == VOCABULARY
    return folder


def random_model(architecture: str, *, seed: int = 0, **changes: Any) -> Any:
    """Return a small model of `architecture` whose answers depend on each of its weights."""
    model_class = getattr(transformers, architecture)
    torch.manual_seed(seed)
    model = model_class(shrunk(model_class.config_class, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            _randomise(parameter)
    return model


def _randomise(parameter: nn.Parameter) -> None:
    """Draw matrices that keep the size of their inputs; add noise to the values of vectors: norms, biases, gates."""
    noise = torch.randn_like(parameter)
    if parameter.ndim > 1:
        parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    else:
        parameter.add_(noise * 0.1)
