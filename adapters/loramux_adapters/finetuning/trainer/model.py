"""Loads the base and its tokenizer, and adds the adapter."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoTokenizer, BitsAndBytesConfig

from loramux_adapters.base_description import BaseDescription, layer_of
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.errors import UnusableBase
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.recipes.trained_modules import trained_modules
from loramux_adapters.finetuning.trainer.base_weights import FIX, BaseWeights, find_weights, reason_of
from loramux_adapters.finetuning.trainer.devices import select_dtype
from loramux_adapters.finetuning.trainer.micro_batches import is_out_of_memory
from loramux_adapters.intake.content import WEIGHTS_FILE


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


def load_weights(base: Path, unquantized: Path | None) -> BaseWeights:
    """Return the weights to train on: of the base, or of its unquantized form.

    Raises:
        UnusableBase: they can't be trained on.
    """
    with _translated_errors(unquantized or base):
        return find_weights(base, unquantized)


def load_model(weights: BaseWeights, device: str, *, load_in_4bit: bool) -> Any:
    """Return the base model on the device, with its linear modules in NF4 if `load_in_4bit`.

    Raises:
        UnusableBase: it can't be loaded.
    """
    dtype = select_dtype(device)
    options: dict[str, Any] = {"local_files_only": True, "config": weights.config, "dtype": dtype}
    if load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if load_in_4bit or weights.quantization:
        options["device_map"] = {"": device}  # quantized weights are made or unpacked where they stay
    with _translated_errors(weights.folder), _quantization_errors(weights, load_in_4bit=load_in_4bit):
        model = weights.model_class.from_pretrained(weights.folder, **options)
    return model if "device_map" in options else model.to(device)


@contextmanager
def _translated_errors(base: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnusableBase(f"{base.name} can't be loaded as a base model: {error}") from error


@contextmanager
def _quantization_errors(weights: BaseWeights, *, load_in_4bit: bool) -> Iterator[None]:
    """Translate the errors of the libraries that quantize, which are of any kind."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) or not (load_in_4bit or weights.quantization):
            raise
        what = "in 4 bits" if load_in_4bit else f"with its {weights.description}"
        fix = "set training.quantize to never" if load_in_4bit else FIX
        raise UnusableBase(f"{weights.folder.name} can't be loaded {what}: {reason_of(error)}; {fix}") from error


def check_recipe(base: BaseDescription, recipe: Recipe) -> None:
    """Check that the base has the layers and modules of the recipe.

    Raises:
        UnusableBase: it has not.
    """
    try:
        trained_modules(base, recipe)
    except ValueError as error:
        raise UnusableBase(f"the recipe does not fit the base: {error}") from error


def add_adapter(model: Any, base: BaseDescription, recipe: Recipe) -> PeftModel:
    """Return the base with a new adapter, for a recipe that `check_recipe` accepts."""
    targets = _targets(base, trained_modules(base, recipe))
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, task_type="CAUSAL_LM", **targets)
    return get_peft_model(model, config)


def load_adapter(model: Any, folder: Path, device: str) -> PeftModel:
    """Return the base with the adapter in a folder of PEFT's files, to be trained further.

    Raises:
        UnusableBase: PEFT can't load it, or only in part.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = False
        config.init_lora_weights = True  # others change the base's weights, which serving does not
        adapted = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=True, torch_device=device)
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            left_out = set(file.keys()) - set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise UnusableBase(f"PEFT can't load the adapter to go on from: {reason_of(error)}") from error
    if left_out:
        raise UnusableBase(f"PEFT would leave out a part of the adapter to go on from: {min(left_out)}")
    return adapted


def _targets(base: BaseDescription, paths: Collection[str]) -> dict[str, Any]:
    """Return the options of PEFT that select exactly the modules in `paths`, as short as possible."""
    names = sorted({path.rpartition(".")[2] for path in paths})
    layers = sorted({layer for path in paths if (layer := layer_of(path)) is not None})
    selected = {path for path in base.modules if path.rpartition(".")[2] in names}
    if selected == set(paths):
        return {"target_modules": names}
    if {path for path in selected if layer_of(path) in layers} == set(paths):
        return {"target_modules": names, "layers_to_transform": layers}
    return {"target_modules": sorted(paths)}
