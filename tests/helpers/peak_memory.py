"""The peak memory of training steps on bases of any size: torch computes shapes only, and live tensors are counted."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.logits import logits_of
from tests.helpers.llama_bases import LlamaSizes


def peak_bytes(sizes: LlamaSizes, recipe: Recipe, tokens: int, answer_tokens: int, *, checkpointing: bool) -> int:
    """Return the most bytes that are alive in a step in bfloat16, with weights and gradients, before the update."""
    with _fake_model(sizes, recipe) as model:
        base = model.get_base_model()
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.disable_input_require_grads()
        model.train()
        batch = torch.zeros(recipe.batch_size, tokens, dtype=torch.long)
        with _LiveMemory() as memory:
            for parameter in model.parameters():
                memory.add(parameter)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                decoded = base.get_decoder()(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)
                states = decoded.last_hidden_state[:, -answer_tokens:].flatten(0, 1)
                logits = logits_of(base, states).float()
                loss = cross_entropy(logits, torch.zeros(len(states), dtype=torch.long), reduction="sum")
            del logits, decoded, states
            torch.autograd.backward(loss)
        return int(memory.peak)


class _LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is not typed
    """Counts the bytes of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self.peak: int = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.peak = max(self.peak, sum(self._sizes.values()))
            weakref.finalize(storage, self._sizes.pop, key, None)

    def __torch_dispatch__(self, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result


@contextmanager
def _fake_model(sizes: LlamaSizes, recipe: Recipe) -> Iterator[Any]:
    """A Llama with an adapter, whose tensors have no values: the base in bfloat16, the adapter in float32."""
    layers = list(
        range(sizes.num_hidden_layers - (recipe.last_layers or sizes.num_hidden_layers), sizes.num_hidden_layers)
    )
    targets = [path.rpartition(".")[2] for path in sizes.linear_modules]
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**vars(sizes), tie_word_embeddings=True))
    config = LoraConfig(r=recipe.rank, target_modules=targets, layers_to_transform=layers, task_type="CAUSAL_LM")
    model = get_peft_model(model, config, low_cpu_mem_usage=True)
    made: dict[int, nn.Parameter] = {}
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                trained = parameter.requires_grad
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=torch.float32 if trained else torch.bfloat16)
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=trained)
                module.register_parameter(name, made[id(parameter)])
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
        yield model
