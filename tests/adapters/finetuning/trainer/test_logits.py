"""The trainer's logits of a few states are the model's own, whatever it does after its head."""

import pytest
import torch

from loramux_adapters.finetuning.trainer.logits import logits_of
from tests.helpers.tiny_bases.bases import random_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "architecture",
    [
        "LlamaForCausalLM",
        "Gemma2ForCausalLM",  # caps its logits
        "GraniteForCausalLM",  # divides them
        "Cohere2ForCausalLM",  # multiplies them
        "FalconH1ForCausalLM",  # reads a factor from its decoder
        "OPTForCausalLM",  # has its decoder inside another module
        "Gemma3ForConditionalGeneration",  # has parts for images
    ],
)
def test_logits_of_states_are_those_of_the_whole_model(architecture: str) -> None:
    model = random_model(architecture)
    ids = torch.randint(5, 200, (1, 12))
    expected = model(input_ids=ids, use_cache=False).logits[0, 3:]
    states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, 3:]
    found = logits_of(model, states)
    assert torch.allclose(found, expected, atol=1e-5)
    torch.autograd.backward(found.sum())
    assert model.get_input_embeddings().weight.grad is not None
