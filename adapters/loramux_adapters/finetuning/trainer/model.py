"""The base, the adapter on it, and the adapter's files."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loramux_adapters.errors import UnsupportedBase
from loramux_adapters.finetuning.datasets.conversations import Row
from loramux_adapters.finetuning.errors import TrainingError, UnusableBase
from loramux_adapters.finetuning.recipes.memory import free_on_cpu
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.models import BaseSpec

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Lengths(NamedTuple):
    """The tokens of an example: of its prompt, and of all of it."""

    prompt: int
    whole: int


def device_for(wanted: str) -> str:
    """Return the device to train on, for `auto` the emptiest GPU; raises TrainingError if it is not there."""
    if wanted == "auto":
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        return max(gpus, key=free_on, default="cpu")
    kind, _, number = wanted.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in {"cpu", "cuda"} or not (number or "0").isdecimal() or int(number or 0) >= count:
        raise TrainingError(f"this machine has no device {wanted!r:.40}: it has cpu and {count} GPUs")
    return wanted


def dtype_for(device: str) -> torch.dtype:
    """Return bfloat16 wherever the device multiplies it natively: the base is served so too, and training is faster.

    On two cores of an EPYC with AVX512-BF16 it took less than half of float32's time, at the same quality.
    """
    able = torch.cpu.get_capabilities()
    native = device != "cpu" or any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def free_on(device: str) -> int:
    """Return the bytes of the device's memory that nobody uses."""
    return free_on_cpu() if device == "cpu" else torch.cuda.mem_get_info(device)[0]


def load_tokenizer(base: Path) -> Any:
    """Return the base's tokenizer; raises UnusableBase."""
    with _loading(base):
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    if tokenizer.chat_template is None:
        raise UnusableBase(f"{base.name} has no chat template: train on the chat ('instruct') variant of the base")
    return tokenizer


def load(base: Path, device: str) -> Any:
    """Return the base's model; raises UnusableBase."""
    with _loading(base):
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=dtype_for(device))
    return model.to(device)


@contextmanager
def _loading(base: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, UnsupportedBase) as error:
        raise UnusableBase(f"{base.name} can't be loaded as a base model: {error}") from error


def spec_of(base: Path) -> BaseSpec:
    """Return the base's sizes; raises UnusableBase."""
    with _loading(base):
        return BaseSpec.from_folder(base, base.name)


def parameters_of(base: Path) -> int:
    """Return how many elements the base's weights have, from the headers of their files; raises UnusableBase."""
    count = 0
    with _loading(base):
        for path in base.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def lengths_of(examples: list[Row], tokenizer: Any) -> list[Lengths]:
    """Count the tokens of each example, as they will be trained on."""
    return [
        Lengths(_count(row["prompt"], tokenizer, opens=True), _count(row["prompt"] + row["completion"], tokenizer))
        for row in examples
    ]


def _count(chat: list[dict[str, str]], tokenizer: Any, *, opens: bool = False) -> int:
    return len(tokenizer.apply_chat_template(chat, add_generation_prompt=opens, return_dict=False))


def refuse_too_long(lengths: list[Lengths], max_length: int) -> None:
    """Raise TrainingError: TRL would cut such an example silently, and its end is what is to be learned."""
    for number, length in enumerate(lengths, start=1):
        if length.whole > max_length:
            raise TrainingError(
                f"answer {number} of the data has {length.whole} tokens, more than the max_length of {max_length}"
            )


def with_adapter(model: Any, recipe: Recipe) -> PeftModel:
    """Return the base with a new adapter; raises UnusableBase if it can't carry the recipe's."""
    layers = model.config.num_hidden_layers
    if recipe.last_layers is not None and recipe.last_layers > layers:
        raise UnusableBase(f"the recipe asks for the last {recipe.last_layers} layers, but the base has {layers}")
    chosen = None if recipe.last_layers is None else list(range(layers - recipe.last_layers, layers))
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.target_modules),
        layers_to_transform=chosen,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UnusableBase(f"the base can't carry the recipe's adapter: {error}") from error


def save(model: PeftModel, base_name: str, folder: Path) -> None:
    """Write the two files so that the same training gives the same bytes, and no path of this machine is in them."""
    weights = {name: tensor.to(torch.bfloat16).cpu() for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private, but the server may be another user
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(str(folder))
