"""Parsing of PEFT's adapter_config.json; features that the engine does not implement are refused."""

import math
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.expressions import is_plain
from loramux_adapters.intake.validation.features import check_features
from loramux_adapters.intake.validation.limits import MAX_CONFIG_BYTES
from loramux_adapters.intake.validation.strict_json import parse_object

MAX_ALPHA = 1 << 16  # Common are 1 to 4 times the rank; 1e9 would drown the base although all weights are finite.
MAX_EXPRESSION = 1 << 16
"""Characters of an expression: some tools list all modules of a base in one."""

ALL_LINEAR = "all-linear"


def _integral(value: object) -> object:
    """Return 8 for 8.0: other tools than PEFT write JSON's only kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Name = Annotated[str, Field(min_length=1, max_length=256)]
Expression = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION)]
Names = Annotated[list[Name], Field(max_length=100_000)]
Rank = Annotated[PositiveInt, BeforeValidator(_integral)]
Alpha = Annotated[float, Field(gt=0, le=MAX_ALPHA)]
Value = TypeVar("Value")
Pattern = dict[Expression, Value] | None


class LoraConfig(BaseModel):
    """The keys of adapter_config.json that determine how the weights are used."""

    model_config = ConfigDict(frozen=True, strict=True)

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Alpha
    rank_pattern: Pattern[Rank] = None
    alpha_pattern: Pattern[Alpha] = None
    use_rslora: Annotated[bool, BeforeValidator(lambda value: False if value is None else value)] = False
    base_model_name_or_path: str | None = None
    target_modules: Names | Expression | None = None
    """Ends of names, an expression for whole names, or `all-linear`."""
    target_parameters: Names | None = None
    """Ends of the names of parameters that hold the matrices of all experts."""
    exclude_modules: Names | Expression | None = None
    layers_to_transform: Annotated[list[NonNegativeInt], Field(max_length=10_000)] | NonNegativeInt | None = None
    layers_pattern: Annotated[list[Expression], Field(max_length=100)] | str | None = None
    """Expressions for the name of the list of layers, without which layers_to_transform takes the first number."""
    ensure_weight_tying: bool | None = None
    """Whether an adapted embedding adapts the head, too."""

    @property
    def scaling(self) -> float:
        """The factor of B·A in modules without an entry in alpha_pattern or rank_pattern."""
        return self.scaling_of(self.lora_alpha, self.r)

    @property
    def largest_rank(self) -> int:
        """The largest rank of a module, which the engine must support."""
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def layer_indices(self) -> list[int]:
        """The layers with weights; an empty list means all layers."""
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else chosen or []

    @property
    def layer_lists(self) -> list[str]:
        """The expressions of layers_pattern, which only matter together with layers; an empty list means any."""
        chosen = self.layers_pattern if self.layer_indices else None
        return ([chosen] if chosen else []) if isinstance(chosen, str) else chosen or []

    def scaling_of(self, alpha: float, rank: int) -> float:
        """Return the factor of B·A in a module of this alpha and rank."""
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


READ_KEYS = frozenset(LoraConfig.model_fields)


def read_values(file: BinaryIO) -> dict[str, Any]:
    """Return the JSON object in `file`.

    Raises:
        InvalidAdapter: it is too large, or not a JSON object.
    """
    raw = file.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidAdapter("too large", where=CONFIG_FILE, expected=f"at most {MAX_CONFIG_BYTES} bytes")
    return parse_object(raw, CONFIG_FILE)


def parse_config(values: dict[str, Any]) -> LoraConfig:
    """Return the configuration in `values`, the object in adapter_config.json.

    Raises:
        InvalidAdapter: a value is malformed.
    """
    try:
        return LoraConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        raise InvalidAdapter(f"{key}: {problem['msg']}", where=CONFIG_FILE, found=values.get(key)) from error


def check_config(values: dict[str, Any], max_rank: int) -> tuple[LoraConfig, list[str]]:
    """Return the configuration in `values`, and warnings about keys that are ignored.

    The config alone decides, so it can be called before the weights are fetched.

    Raises:
        InvalidAdapter: the configuration is malformed, not supported or has a rank above `max_rank`.
    """
    config, warnings = parse_config(values), check_features(values, READ_KEYS)
    if config.largest_rank > max_rank:
        problem = (
            "the rank is above the engine's limit; a higher LORAMUX_ENGINE__MAX_LORA_RANK, at most 512, needs a restart"
        )
        raise InvalidAdapter(problem, where=CONFIG_FILE, expected=f"at most {max_rank}", found=config.largest_rank)
    return config, warnings


def refuse_expressions(config: LoraConfig) -> None:
    """Refuse patterns that the engine would have to evaluate; `canonical_config` writes names instead.

    Raises:
        InvalidAdapter: a key of rank_pattern or alpha_pattern is not a plain name.
    """
    for key in ("rank_pattern", "alpha_pattern"):
        for text in getattr(config, key) or ():
            if not is_plain(text):
                problem = f"{key}: an expression in place of a module's name"
                raise InvalidAdapter(problem, where=CONFIG_FILE, expected="the end of a module's name", found=text)
