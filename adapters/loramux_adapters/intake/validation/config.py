"""adapter_config.json, as PEFT writes it: which LoRA it is, and whether the engine does what it asks for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.limits import MAX_CONFIG_BYTES
from loramux_adapters.intake.validation.strict_json import parse_object
from loramux_adapters.models import LINEAR_MODULES

MAX_ALPHA = 1 << 16  # Usual are 1 to 4 times the rank. An alpha of 1e9 drowns the base with finite weights.

Name = Annotated[str, Field(min_length=1, max_length=256)]
# All modules of all layers by their full names are fewer than 1,000 in any open model.
Names = Annotated[list[Name], Field(max_length=2048)]
Alpha = Annotated[float, Field(gt=0, le=MAX_ALPHA)]
# vLLM makes a regular expression of each name and keeps 500 of them: with more, each module would compile all anew.
MAX_PATTERNS = 240
Value = TypeVar("Value")
Pattern = Annotated[dict[Name, Value], Field(max_length=MAX_PATTERNS)] | None


class LoraConfig(BaseModel):
    """What of adapter_config.json decides how the weights are used."""

    model_config = ConfigDict(frozen=True, strict=True)

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: Alpha
    rank_pattern: Pattern[PositiveInt] = None
    alpha_pattern: Pattern[Alpha] = None
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    target_modules: Annotated[Names, Field(min_length=1)] | Name
    """Ends of names, a regular expression for whole names, or `all-linear`."""
    exclude_modules: Names | Name | None = None
    layers_to_transform: Annotated[list[NonNegativeInt], Field(max_length=10_000)] | NonNegativeInt | None = None

    @property
    def scaling(self) -> float:
        """The factor of B·A, in modules of which alpha_pattern and rank_pattern say nothing."""
        return self._scaling(self.lora_alpha, self.r)

    @property
    def largest_rank(self) -> int:
        """The rank that the engine must have room for."""
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def has_expressions(self) -> bool:
        """Whether a regular expression chooses the modules."""
        is_expression = isinstance(self.target_modules, str) and self.target_modules != "all-linear"
        return is_expression or isinstance(self.exclude_modules, str)

    @property
    def module_names(self) -> dict[str, Iterable[str]]:
        """By key, the ends of names that modules must have for each to mean something."""
        return {
            "target_modules": _listed(self.target_modules) or LINEAR_MODULES,
            "rank_pattern": self.rank_pattern or {},
            "alpha_pattern": self.alpha_pattern or {},
        }

    @property
    def layer_indices(self) -> list[int]:
        """The layers that have weights; none given means all."""
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else chosen or []

    def targets(self, layer: int, module: str) -> bool:
        """Whether there are weights for `module`, named in full, of `layer`; with expressions, whether there may be."""
        if self.layer_indices and layer not in self.layer_indices:
            return False
        targets, excluded = self.module_names["target_modules"], _listed(self.exclude_modules)
        return any(ends_with(module, name) for name in targets) and not any(
            ends_with(module, name) for name in excluded
        )

    def rank_of(self, module: str) -> int:
        """The rank in `module`, named in full."""
        return _first_of(self.rank_pattern, module, self.r)

    def scaling_of(self, module: str) -> float:
        """The factor of B·A in `module`, named in full."""
        return self._scaling(_first_of(self.alpha_pattern, module, self.lora_alpha), self.rank_of(module))

    def _scaling(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def ends_with(module: str, name: str) -> bool:
    """Whether `name` is `module` or its end after a dot, which is how PEFT compares them."""
    return module == name or module.endswith(f".{name}")


def _first_of(pattern: Mapping[str, Value] | None, module: str, default: Value) -> Value:
    """The value of the first name in `pattern` that is `module`'s; PEFT and vLLM look it up in this order too."""
    return next((value for name, value in (pattern or {}).items() if ends_with(module, name)), default)


def _listed(names: Sequence[str] | None) -> Sequence[str]:
    return () if names is None or isinstance(names, str) else names


# Keys that say how the adapter was trained or where it came from; the saved weights mean the same whatever they hold.
_WITHOUT_EFFECT = {
    "auto_mapping", "ensure_weight_tying", "eva_config", "inference_mode", "layers_pattern",
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
    if config.largest_rank > max_rank:
        problem = "the rank is over the engine's limit, LORAMUX_ENGINE__MAX_LORA_RANK"
        raise InvalidAdapter(problem, where=CONFIG_FILE, expected=f"at most {max_rank}", found=config.largest_rank)
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
