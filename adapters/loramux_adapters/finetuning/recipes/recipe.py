"""The recipe: every choice that makes a training run reproducible, in one small YAML file."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loramux_adapters.finetuning.errors import InvalidRecipe

Module = Annotated[str, Field(pattern=r"\A\w[\w.]{0,127}\z")]
"""The last parts of the paths of some of the base's linear modules, such as `q_proj`."""
AllLinear = Literal["all-linear"]

MAX_LEARNING_RATE = 1.0
Method = Literal["supervised", "dpo"]
"""Supervised fine-tuning on answers, or direct preference optimization on pairs of answers."""
DEFAULT_BETA, MAX_BETA = 0.1, 100.0


class Recipe(BaseModel):
    """Hyperparameters of a training run. The defaults suit a few hundred short examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=1, le=512)] = 8
    alpha: Annotated[float, Field(gt=0, le=1 << 16)] = 16
    target_modules: AllLinear | Annotated[tuple[Module, ...], Field(min_length=1, max_length=256)] = "all-linear"
    # Number of layers with an adapter, counted from the last; None: all. Fewer are cheaper to train and to serve.
    last_layers: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] = 1e-3
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    max_length: Annotated[int, Field(ge=8)] = 1024  # tokens of one example, prompt and completion together
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    method: Method = "supervised"
    beta: Annotated[float, Field(gt=0, le=MAX_BETA)] | None = None  # of DPO: how near to the reference it stays
    # Passes over the validation file without a lower loss after which training stops; the adapter is then the one of
    # the lowest loss. None: trained to the end, and the last one.
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_modules_are_unique(self) -> Self:
        if self.target_modules != "all-linear" and len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules names a module twice")
        return self

    @property
    def is_dpo(self) -> bool:
        """Whether the data are pairs of answers."""
        return self.method == "dpo"

    @property
    def dpo_beta(self) -> float:
        """The beta of DPO, by default that of TRL."""
        return DEFAULT_BETA if self.beta is None else self.beta

    def fingerprint(self) -> str:
        """Return a text that differs between recipes; that of a recipe of an earlier release never changes."""
        added = {"method", "beta", "early_stopping_patience"}
        unset = {name for name in added if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump_json(exclude=unset)


def load_recipe(path: Path) -> Recipe:
    """Read a YAML (or JSON) recipe; an empty file means all the defaults.

    Raises:
        InvalidRecipe: names every wrong or unknown key.
        OSError: the file can't be read.
    """
    try:
        document = yaml.safe_load(path.read_bytes()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"{path.name} is not YAML: {error}") from error
    return parse_recipe(document, path.name)


def parse_recipe(document: object, name: str) -> Recipe:
    """Return the recipe in a document that was read from `name`.

    Raises:
        InvalidRecipe: names every wrong or unknown key.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        reasons = "\n".join(
            f"  {'.'.join(str(part) for part in problem['loc']) or 'recipe'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise InvalidRecipe(f"{name} is not a recipe:\n{reasons}") from error
