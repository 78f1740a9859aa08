"""Which weights of the base are trained on: its own, dequantized if they can be, or those of its unquantized form."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers.auto import AutoHfQuantizer

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.errors import UnusableBase

_MAX_REASON_LENGTH = 300
FIX = "set training.base (LORAMUX_TRAINING__BASE) to the folder or Hub id of the unquantized base"


@dataclass(frozen=True)
class BaseWeights:
    """Weights that can be trained on, in a folder, and the configuration of transformers to load them with."""

    folder: Path
    config: Any
    quantization: str = ""
    """The method by which the weights in the folder are quantized, such as `gptq`; empty if they are not."""
    is_dequantized: bool = False
    """Whether quantized weights are dequantized when they are loaded."""

    @property
    def packed_bytes(self) -> int | None:
        """Size of weights that stay quantized in memory; None for others."""
        if not self.quantization or self.is_dequantized:
            return None
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    @property
    def model_class(self) -> Any:
        """The class that the base's description is of; the automatic one may leave out the parts for images."""
        return getattr(transformers, self.config.architectures[0], AutoModelForCausalLM)

    @property
    def can_checkpoint(self) -> bool:
        """Whether transformers has gradient checkpointing for this architecture."""
        return bool(getattr(self.model_class, "supports_gradient_checkpointing", False))

    @property
    def description(self) -> str:
        """The form of quantized weights, as part of a sentence; empty for others."""
        if not self.quantization:
            return ""
        return f"weights {'dequantized from' if self.is_dequantized else 'quantized by'} {self.quantization}"


def find_weights(base: Path, unquantized: Path | None) -> BaseWeights:
    """Return the weights to train on: those of the served base's folder, or those of `unquantized`, if given.

    Raises:
        UnusableBase: `unquantized` is another base, or the weights can't be trained on.
        OSError: a config can't be read.
        ValueError: it is not a config of transformers.
    """
    folder = unquantized or base
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if unquantized:
        _check_same_base(unquantized, config, AutoConfig.from_pretrained(base, local_files_only=True))
    quantization = _quantization_of(config)
    if quantization is None:
        return BaseWeights(folder, config)
    try:
        quantizer = AutoHfQuantizer.from_config(deepcopy(quantization), pre_quantized=True)
        method = quantizer.quantization_config.quant_method
        method = str(getattr(method, "value", method))
        if hasattr(quantizer.quantization_config, "dequantize"):
            quantization["dequantize"] = True
            return BaseWeights(folder, config, method, is_dequantized=True)
        quantizer.validate_environment(device_map=None)
        is_trainable = quantizer.is_trainable
    except Exception as error:  # what a library raises that is missing, too old, or lacks a GPU
        raise UnusableBase(
            f"the quantized weights of {folder.name} can't be trained on: {reason_of(error)}; {FIX}"
        ) from error
    if not is_trainable:
        raise UnusableBase(f"transformers can't train on weights quantized by {method}, as in {folder.name}: {FIX}")
    return BaseWeights(folder, config, method)


def reason_of(error: Exception) -> str:
    """Return a library's message in one line, as part of a sentence."""
    return " ".join(str(error).split())[:_MAX_REASON_LENGTH].rstrip(".") or type(error).__name__


def check_shapes(model: Any, base: BaseDescription) -> None:
    """Check that a loaded model has the modules that the served base has, with their shapes.

    Raises:
        UnusableBase: a module is missing, or has another shape.
    """
    modules = dict(model.named_modules())
    for path, expected in base.linear.items():
        module = modules.get(path)
        found = (getattr(module, "in_features", expected.inputs), getattr(module, "out_features", expected.outputs))
        if module is None or found != (expected.inputs, expected.outputs):
            shape = "no such module" if module is None else f"{found[0]} inputs and {found[1]} outputs"
            raise UnusableBase(
                f"the weights to train on are not those of the served base: {path} has {shape}; expected "
                f"{expected.inputs} inputs and {expected.outputs} outputs: check training.base"
            )


def _check_same_base(folder: Path, config: Any, served: Any) -> None:
    found, expected = _sizes(config), _sizes(served)
    if found != expected:
        raise UnusableBase(
            f"{folder.name} is not the served base: {_listed(found)}; expected {_listed(expected)}: check training.base"
        )


def _sizes(config: Any) -> dict[str, Any]:
    """Return what two forms of one base have in common."""
    text = config.get_text_config()
    names = ("hidden_size", "num_hidden_layers", "vocab_size")
    sizes = {name: getattr(text, name) for name in names if hasattr(text, name)}
    return {"architecture": (config.architectures or [None])[0]} | sizes


def _listed(sizes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _quantization_of(config: Any) -> Any:
    """Return the dict that configures the weights' quantization, part of `config`; None if there is none."""
    found = getattr(config, "quantization_config", None)
    return found if found is not None else getattr(config.get_text_config(), "quantization_config", None)
