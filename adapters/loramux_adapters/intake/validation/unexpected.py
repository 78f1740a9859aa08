"""The reasons why tensors are refused that are none of the pairs of an adapter."""

import re

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation.features import REFUSED

_LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?[AB](?:\.weight)?")
_WEIGHT = re.compile(r"(?:base_model\.model\.)?(.+?)(?:\.base_layer|\.modules_to_save|\.original_module)?\.weight")
_PARTS = {
    "lora_magnitude_vector": REFUSED["use_dora"],
    "lora_B.bias": REFUSED["lora_bias"],
    "lora_diag": REFUSED["kasa_config"],
    "monteclora": REFUSED["monteclora_config"],
    "trainable_tokens": REFUSED["trainable_token_indices"],
}


def unexpected_tensor(name: str, shape: tuple[int, ...], base: BaseDescription, expected: str) -> InvalidAdapter:
    """Return the error for a tensor of an adapter of `base` that has no place in it.

    `expected` describes the tensors that have one.
    """
    reason = _reason(name, shape, base)
    if reason:
        return InvalidAdapter(reason, where=name)
    problem = "unexpected tensor: the config and the base have no such module"
    return InvalidAdapter(problem, where=name, expected=expected)


def module_path(name: str) -> str:
    """Return the path of the module to which a tensor of a LoRA in PEFT's form belongs; `name` itself for others."""
    found = _LORA.fullmatch(name)
    return found[1] if found else name


def _reason(name: str, shape: tuple[int, ...], base: BaseDescription) -> str | None:
    if found := next((reason for part, reason in _PARTS.items() if part in name), None):
        return found
    if (lora := _LORA.fullmatch(name)) and (module := base.modules.get(lora[1])):
        return module.refusal or "unexpected tensor: the config does not select this module"
    if (weight := _WEIGHT.fullmatch(name)) and (module := base.modules.get(weight[1])):
        is_vocabulary = module.is_head or module.kind == "embedding"
        vocabulary = module.outputs if module.is_head else module.inputs
        if is_vocabulary and shape[0] != vocabulary:
            return f"the vocabulary was resized from {vocabulary} to {shape[0]} tokens: train with the base's own"
        return f"a fully trained copy of {weight[1]}: train LoRA on this module"
    return REFUSED["bias"] if name.endswith(".bias") else None
