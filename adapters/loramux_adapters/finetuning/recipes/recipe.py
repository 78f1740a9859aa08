"""The recipe: every choice that makes a training run repeatable, in one small file beside the data."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loramux_adapters.finetuning.errors import InvalidRecipe

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL_LINEAR: tuple[Module, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

LARGEST_RATE = 1.0


class Recipe(BaseModel):
    """How an adapter is trained. The defaults suit a few hundred short examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[float, Field(gt=0, le=4096)] = 16
    target_modules: Annotated[tuple[Module, ...], Field(min_length=1)] = ALL_LINEAR
    # Only the last layers of the base carry the adapter; None: all of them. Fewer are cheaper to train and to serve.
    last_layers: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=LARGEST_RATE)] = 1e-3
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    max_length: Annotated[int, Field(ge=8)] = 1024  # tokens of one example, prompt and completion together
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _names_each_module_once(self) -> Self:
        if len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules names a module twice")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a YAML (or JSON) recipe; an empty file means all the defaults.

    Raises InvalidRecipe that names every wrong or unknown key, and OSError when the file can't be read.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_bytes()) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"{path.name} is not YAML: {error}") from error
    except ValidationError as error:
        reasons = "\n".join(
            f"  {'.'.join(str(part) for part in problem['loc']) or 'recipe'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise InvalidRecipe(f"{path.name} is not a recipe:\n{reasons}") from error
