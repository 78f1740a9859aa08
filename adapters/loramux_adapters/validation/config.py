"""adapter_config.json, as PEFT writes it: which LoRA it is, and whether the engine does what it asks for."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from loramux_adapters.content import CONFIG_FILE
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.records import LINEAR_MODULES
from loramux_adapters.validation.limits import MAX_CONFIG_BYTES
from loramux_adapters.validation.strict_json import parse_object

MAX_ALPHA = 1 << 16  # Usual are 1 to 4 times the rank. An alpha of 1e9 drowns the base with finite weights.

Name = Annotated[str, Field(min_length=1, max_length=256)]
# All modules of all layers by their full names are fewer than 1,000 in any open model.
Names = Annotated[list[Name], Field(max_length=2048)]


class LoraConfig(BaseModel):
    """What of adapter_config.json decides how the weights are used."""

    model_config = ConfigDict(frozen=True, strict=True)

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: Annotated[float, Field(gt=0, le=MAX_ALPHA)]
    use_rslora: bool = False
    target_modules: Annotated[Names, Field(min_length=1)] | Literal["all-linear"]
    exclude_modules: Names | None = None
    layers_to_transform: Annotated[list[NonNegativeInt], Field(max_length=10_000)] | NonNegativeInt | None = None

    @property
    def scaling(self) -> float:
        """The factor of B·A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def target_names(self) -> Iterable[str]:
        """The ends of names of the modules that have weights."""
        return LINEAR_MODULES if self.target_modules == "all-linear" else self.target_modules

    @property
    def layer_indices(self) -> list[int]:
        """The layers that have weights; none given means all."""
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else chosen or []

    def targets(self, layer: int, module: str) -> bool:
        """Whether there are weights for `module`, named in full, of `layer`."""
        if self.layer_indices and layer not in self.layer_indices:
            return False
        excluded = self.exclude_modules or ()
        return any(ends_with(module, name) for name in self.target_names) and not any(
            ends_with(module, name) for name in excluded
        )


def ends_with(module: str, name: str) -> bool:
    """Whether `name` is `module` or its end after a dot, which is how PEFT compares them."""
    return module == name or module.endswith(f".{name}")


# Keys that say how the adapter was trained or where it came from; the saved weights mean the same whatever they hold.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "inference_mode", "layers_pattern",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
}  # fmt: skip

# The initialisations that leave the base's weights as they are.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")

_TITLES = {
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "lora_bias": "a bias in LoRA layers",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "use_bdlora": "block-diagonal LoRA",
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
}


def read_config(file: BinaryIO, max_rank: int) -> LoraConfig:
    """Return the configuration in `file`; raises InvalidAdapter.

    A key that is unknown here and switched on asks for something that would silently not be done: it is refused.
    """
    raw = file.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidAdapter("too large", where=CONFIG_FILE, expected=f"at most {MAX_CONFIG_BYTES} bytes")
    values = parse_object(raw, CONFIG_FILE)
    config = _parse(values)
    for key in sorted(values.keys() - LoraConfig.model_fields.keys() - _WITHOUT_EFFECT):
        if not _is_off(key, values[key]):
            raise InvalidAdapter(f"{_TITLES.get(key, key)} is not supported", where=CONFIG_FILE, found=values[key])
    if config.r > max_rank:
        problem = "the rank is over the engine's limit, LORAMUX_ENGINE__MAX_LORA_RANK"
        raise InvalidAdapter(problem, where=CONFIG_FILE, expected=f"at most {max_rank}", found=config.r)
    return config


def _parse(values: dict[str, Any]) -> LoraConfig:
    try:
        return LoraConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        raise InvalidAdapter(f"{key}: {problem['msg']}", where=CONFIG_FILE, found=values.get(key)) from error


def _is_off(key: str, value: object) -> bool:
    if key == "init_lora_weights":
        return (value.lower() if isinstance(value, str) else value) in _PLAIN_INITS
    return not value or (key == "bias" and value == "none")
