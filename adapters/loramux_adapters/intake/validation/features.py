"""The keys of adapter_config.json other than those of LoraConfig: features that are refused, and what is ignored."""

import re
from collections.abc import Mapping
from typing import Any

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE

KNOWN_PEFT = (0, 21)
"""The newest PEFT whose keys are known; a test compares them."""

REFUSED = {
    "alora_invocation_tokens": "activated LoRA (aLoRA) is not supported: train a plain LoRA",
    "arrow_config": "Arrow's routing between adapters is not supported: add the adapters one by one",
    "bias": "trained biases are not supported: train with bias='none', or merge the adapter into the base",
    "fan_in_fan_out": "not supported: it does not apply to the base's layers",
    "kasa_config": "KaSA is not supported, because it changes the base's weights: train a plain LoRA",
    "layer_replication": "layer replication is not supported: it makes another base of the layers",
    "lora_bias": "a bias in LoRA layers is not supported: train without it",
    "megatron_config": "Megatron's layers are not supported: save the adapter for transformers",
    "modules_to_save": "fully trained modules are not supported: train LoRA on these modules",
    "monteclora_config": "MonteCLoRA is not supported: train a plain LoRA",
    "trainable_token_indices": "trained tokens are not supported: train without them",
    "use_bdlora": "block-diagonal LoRA is not supported: train a plain LoRA",
    "use_dora": "DoRA is not supported: train without use_dora, or merge the adapter into the base",
    "use_qalora": "QALoRA is not supported: train a plain LoRA",
}
"""The reason and the way out, by the key that enables the feature."""

LEFTOVERS = {"corda_config", "eva_config", "loftq_config", "lora_ga_config", "velora_config"}
"""Keys about initialisation and gradients, which conversions leave behind: the saved weights do not depend on them."""

IGNORED = {
    "auto_mapping", "inference_mode", "lora_dropout", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
"""Keys about training and origin."""

_INIT = "init_lora_weights"
# Initialisations that leave the base's weights as they are. (lora_ga changes them during training only.)
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")


def check_features(values: Mapping[str, Any], read: frozenset[str]) -> list[str]:
    """Return warnings about keys of the config that are ignored; `read` are the keys that are not.

    An unknown key with a text is a note of another tool. With any other value that is not empty, or from a PEFT whose
    keys are not known, it may enable something that the engine would ignore silently.

    Raises:
        InvalidAdapter: the config enables a feature that vLLM does not implement, or that is not known.
    """
    for key, reason in REFUSED.items():
        if _is_on(key, values.get(key)):
            raise _error(f"{key}: {reason}", values[key])
    _check_init(values.get(_INIT, True))
    leftovers = sorted(key for key in LEFTOVERS if _is_leftover(key, values))
    known = read | REFUSED.keys() | LEFTOVERS | IGNORED | {_INIT}
    unknown = sorted(key for key, value in values.items() if value and key not in known)
    is_newer = _is_newer(values.get("peft_version"))
    if features := [key for key in unknown if is_newer or not isinstance(values[key], str)]:
        raise _error(
            "keys that are not known may change the weights' meaning: update loramux, or set them to null", features
        )
    notes = (("ignored, because they only matter during training", leftovers), ("ignored: unknown keys", unknown))
    return [_error(note, keys).message for note, keys in notes if keys]


def _is_on(key: str, value: object) -> bool:
    return bool(value) and not (key == "bias" and value == "none")


def _is_leftover(key: str, values: Mapping[str, Any]) -> bool:
    """Whether the key is set without the initialisation that would use it, which is the rest of its own name."""
    return bool(values.get(key)) and values.get(_INIT) != key.removesuffix("_config")


def _check_init(init: object) -> None:
    if (init.lower() if isinstance(init, str) else init) not in _HARMLESS_INITS:
        raise _error(
            f"{_INIT}: this initialisation changes the base's weights; convert the adapter with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)",
            init,
        )


def _is_newer(version: object) -> bool:
    """Whether a file of this `peft_version` may have keys that are not known; old files and other tools have none."""
    if not version:
        return False
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    return found is None or (int(found[1]), int(found[2])) > KNOWN_PEFT


def _error(problem: str, found: object) -> InvalidAdapter:
    return InvalidAdapter(problem, where=CONFIG_FILE, found=found)
