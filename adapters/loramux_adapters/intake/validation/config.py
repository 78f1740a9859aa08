"""Parsing of PEFT's adapter_config.json; features that the engine does not implement are refused."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.limits import MAX_CONFIG_BYTES
from loramux_adapters.intake.validation.strict_json import parse_object
from loramux_adapters.models import LINEAR_MODULES

MAX_ALPHA = 1 << 16  # Common are 1 to 4 times the rank; 1e9 would drown the base although all weights are finite.

Name = Annotated[str, Field(min_length=1, max_length=256)]
# No open model has more than 1,000 modules in all layers.
Names = Annotated[list[Name], Field(max_length=2048)]
Alpha = Annotated[float, Field(gt=0, le=MAX_ALPHA)]
# vLLM compiles each name to a regular expression and caches 500: with more, each module would compile all again.
MAX_PATTERNS = 240
Value = TypeVar("Value")
Pattern = Annotated[dict[Name, Value], Field(max_length=MAX_PATTERNS)] | None


class LoraConfig(BaseModel):
    """The keys of adapter_config.json that determine how the weights are used."""

    model_config = ConfigDict(frozen=True, strict=True)

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: Alpha
    rank_pattern: Pattern[PositiveInt] = None
    alpha_pattern: Pattern[Alpha] = None
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    target_modules: Annotated[Names, Field(min_length=1)] | Name
    """Name suffixes, a regular expression for full names, or `all-linear`."""
    exclude_modules: Names | Name | None = None
    layers_to_transform: Annotated[list[NonNegativeInt], Field(max_length=10_000)] | NonNegativeInt | None = None

    @property
    def scaling(self) -> float:
        """The factor of B·A in modules without an entry in alpha_pattern or rank_pattern."""
        return self._scaling(self.lora_alpha, self.r)

    @property
    def largest_rank(self) -> int:
        """The largest rank of a module, which the engine must support."""
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def has_expressions(self) -> bool:
        """Whether a regular expression selects or excludes modules."""
        is_expression = isinstance(self.target_modules, str) and self.target_modules != "all-linear"
        return is_expression or isinstance(self.exclude_modules, str)

    @property
    def module_names(self) -> dict[str, Iterable[str]]:
        """The name suffixes by config key; each must match a module of the base."""
        return {
            "target_modules": _listed(self.target_modules) or LINEAR_MODULES,
            "rank_pattern": self.rank_pattern or {},
            "alpha_pattern": self.alpha_pattern or {},
        }

    @property
    def layer_indices(self) -> list[int]:
        """The layers with weights; an empty list means all layers."""
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else chosen or []

    def targets(self, layer: int, module: str) -> bool:
        """Whether `module` (full name) of `layer` has weights; with expressions, whether it may have."""
        if self.layer_indices and layer not in self.layer_indices:
            return False
        targets, excluded = self.module_names["target_modules"], _listed(self.exclude_modules)
        return any(ends_with(module, name) for name in targets) and not any(
            ends_with(module, name) for name in excluded
        )

    def rank_of(self, module: str) -> int:
        """Return the rank in `module` (full name)."""
        return _first_of(self.rank_pattern, module, self.r)

    def scaling_of(self, module: str) -> float:
        """Return the factor of B·A in `module` (full name)."""
        return self._scaling(_first_of(self.alpha_pattern, module, self.lora_alpha), self.rank_of(module))

    def _scaling(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def ends_with(module: str, name: str) -> bool:
    """Whether `name` is `module` or its suffix after a dot, which is how PEFT compares them."""
    return module == name or module.endswith(f".{name}")


def _first_of(pattern: Mapping[str, Value] | None, module: str, default: Value) -> Value:
    """Return the value of the first name in `pattern` that matches `module`, in the same order as PEFT and vLLM."""
    return next((value for name, value in (pattern or {}).items() if ends_with(module, name)), default)


def _listed(names: Sequence[str] | None) -> Sequence[str]:
    return () if names is None or isinstance(names, str) else names


# Keys about training and origin, which do not change how the saved weights are used.
_IGNORED_KEYS = {
    "auto_mapping", "ensure_weight_tying", "eva_config", "inference_mode", "layers_pattern",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
}  # fmt: skip

# The initialisations that do not change the base's weights.
_SUPPORTED_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")

_FEATURE_NAMES = {
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
    """Parse the configuration in `file`.

    Unknown keys with a value that enables something are refused: the engine would silently ignore them.

    Raises:
        InvalidAdapter: the configuration is malformed, not supported or has a rank above `max_rank`.
    """
    raw = file.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidAdapter("too large", where=CONFIG_FILE, expected=f"at most {MAX_CONFIG_BYTES} bytes")
    values = parse_object(raw, CONFIG_FILE)
    config = _parse(values)
    for key in sorted(values.keys() - LoraConfig.model_fields.keys() - _IGNORED_KEYS):
        if not _is_off(key, values[key]):
            raise InvalidAdapter(
                f"{_FEATURE_NAMES.get(key, key)} is not supported", where=CONFIG_FILE, found=values[key]
            )
    if config.largest_rank > max_rank:
        problem = "the rank is above the engine's limit, LORAMUX_ENGINE__MAX_LORA_RANK"
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
        return (value.lower() if isinstance(value, str) else value) in _SUPPORTED_INITS
    return not value or (key == "bias" and value == "none")
