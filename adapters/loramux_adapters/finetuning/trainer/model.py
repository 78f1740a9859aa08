"""Loads the base and its tokenizer, and adds the adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from loramux_adapters.errors import UnsupportedBase
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.errors import TrainingError, UnusableBase
from loramux_adapters.finetuning.recipes.memory import free_cpu_memory
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.models import BaseSpec


def select_device(requested: str) -> str:
    """Return the device to train on: for `auto` the GPU with the most free memory, else the CPU.

    Raises:
        TrainingError: the machine has no such device.
    """
    if requested == "auto":
        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        return max(devices, key=free_memory, default="cpu")
    kind, _, number = requested.partition(":")
    gpus = torch.cuda.device_count()
    count = gpus if kind == "cuda" else 1
    if kind not in {"cpu", "cuda"} or not (number or "0").isdecimal() or int(number or 0) >= count:
        raise TrainingError(
            f"unknown device {requested!r:.40}; expected auto, cpu, or one of this machine's {gpus} GPUs (cuda:N)"
        )
    return requested


def select_dtype(device: str) -> torch.dtype:
    """Return bfloat16 if the device multiplies it natively: the base is served so too, and training is faster.

    On two cores of an EPYC with AVX512-BF16 it took less than half of float32's time, at the same quality.
    """
    capabilities = torch.cpu.get_capabilities()
    native = device != "cpu" or any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def free_memory(device: str) -> int:
    """Return the free memory of the device in bytes."""
    return free_cpu_memory() if device == "cpu" else torch.cuda.mem_get_info(device)[0]


def load_tokenizer(base: Path, rendering: ChatRendering) -> Any:
    """Return the tokenizer with which the base is served.

    Raises:
        UnusableBase: it can't be loaded, or there is no chat template.
    """
    with _translated_errors(base):
        tokenizer = AutoTokenizer.from_pretrained(rendering.tokenizer or base, local_files_only=True)
    if tokenizer.chat_template is None and rendering.template is None:
        raise UnusableBase(f"{base.name} has no chat template: train on the chat ('instruct') variant of the base")
    return tokenizer


def load_model(base: Path, device: str) -> Any:
    """Return the base model on the device.

    Raises:
        UnusableBase: it can't be loaded.
    """
    with _translated_errors(base):
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=select_dtype(device))
    return model.to(device)


@contextmanager
def _translated_errors(base: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, UnsupportedBase) as error:
        raise UnusableBase(f"{base.name} can't be loaded as a base model: {error}") from error


def load_base_spec(base: Path) -> BaseSpec:
    """Return the shapes of the base.

    Raises:
        UnusableBase: its config can't be read or is not supported.
    """
    with _translated_errors(base):
        return BaseSpec.from_folder(base, base.name)


def count_parameters(base: Path) -> int:
    """Return the number of parameters of the base, from the headers of its files.

    Raises:
        UnusableBase: a file can't be read.
    """
    count = 0
    with _translated_errors(base):
        for path in base.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def add_adapter(model: Any, recipe: Recipe) -> PeftModel:
    """Return the base with a new adapter.

    Raises:
        UnusableBase: the base does not have the layers or modules of the recipe.
    """
    layers = model.config.num_hidden_layers
    if recipe.last_layers is not None and recipe.last_layers > layers:
        raise UnusableBase(f"the recipe asks for the last {recipe.last_layers} layers, but the base has {layers}")
    layers_to_transform = None if recipe.last_layers is None else list(range(layers - recipe.last_layers, layers))
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.target_modules),
        layers_to_transform=layers_to_transform,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UnusableBase(f"the recipe's adapter does not fit the base: {error}") from error
