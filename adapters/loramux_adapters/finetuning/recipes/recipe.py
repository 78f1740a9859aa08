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


class Recipe(BaseModel):
    """Hyperparameters of a training run. The defaults suit a few hundred short examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[float, Field(gt=0, le=4096)] = 16
    target_modules: AllLinear | Annotated[tuple[Module, ...], Field(min_length=1, max_length=256)] = "all-linear"
    # Number of layers with an adapter, counted from the last; None: all. Fewer are cheaper to train and to serve.
    last_layers: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] = 1e-3
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    max_length: Annotated[int, Field(ge=8)] = 1024  # tokens of one example, prompt and completion together
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _check_modules_are_unique(self) -> Self:
        if self.target_modules != "all-linear" and len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules names a module twice")
        return self


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
