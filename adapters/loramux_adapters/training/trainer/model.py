"""The base, the adapter on it, and the adapter's files."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loramux_adapters.training.dataset import Row
from loramux_adapters.training.errors import TrainingError, UnusableBase
from loramux_adapters.training.recipe import Recipe

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def device_for(wanted: str) -> str:
    """Return the device to train on; raises TrainingError if it is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in {"cpu", "cuda"} or not (number or "0").isdecimal() or int(number or 0) >= count:
        raise TrainingError(f"this machine has no device {wanted!r:.40}: it has cpu and {count} GPUs")
    return wanted


def load(base: Path, device: str) -> tuple[Any, Any]:
    """Return the base's tokenizer and model; raises UnusableBase."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UnusableBase(f"{base.name} can't be loaded as a base model: {error}") from error
    if tokenizer.chat_template is None:
        raise UnusableBase(f"{base.name} has no chat template: train on the chat ('instruct') variant of the base")
    return tokenizer, model.to(device)


def refuse_too_long(examples: list[Row], tokenizer: Any, max_length: int) -> None:
    """TRL would cut such an example silently, and its end is what is to be learned."""
    for number, row in enumerate(examples, start=1):
        chat = row["prompt"] + row["completion"]
        length = len(tokenizer.apply_chat_template(chat, return_dict=False))
        if length > max_length:
            raise TrainingError(
                f"answer {number} of the data has {length} tokens, more than the recipe's max_length of {max_length}"
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
