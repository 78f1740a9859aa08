"""A scorer of the user's own."""

import hashlib
import importlib
import math
import runpy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores, ScoringError


class FunctionScorer(BaseScorer):
    """A function of the user's own: (answer, expected) -> a number, or several by their names.

    `function` is FILE.py:NAME or MODULE:NAME.
    """

    type: Literal["function"]
    function: Annotated[str, Field(pattern=r"^.+:[A-Za-z_]\w*$")]

    @field_validator("function")
    @classmethod
    def _beside_the_plan(cls, function: str, info: ValidationInfo) -> str:
        """A file that a plan names is looked for where the plan is."""
        place, _, name = function.rpartition(":")
        folder = (info.context or {}).get("folder")
        return f"{folder / place}:{name}" if folder and place.endswith(".py") else function

    @model_validator(mode="after")
    def _can_be_loaded(self) -> Self:
        _ = self._called
        return self

    @cached_property
    def _called(self) -> Callable[[str, str], Any]:
        return _loaded(self.function)

    def identity(self) -> dict[str, Any]:
        """With what is in the file: a function that was changed scores anew."""
        place, _, name = self.function.rpartition(":")
        if not place.endswith(".py"):
            return super().identity()
        return {"type": self.type, "function": name, "file": hashlib.sha256(Path(place).read_bytes()).hexdigest()}

    def score(self, answer: str, expected: str) -> Scores:
        """What the function says; raises ScoringError if it raises, or says what is no number."""
        try:
            said = self._called(answer, expected)
            named = said if isinstance(said, dict) else {"score": said}
            scores = {str(name): float(value) for name, value in named.items()}
        except Exception as error:
            raise ScoringError(f"{type(error).__name__}: {error}") from error
        if not scores or not all(math.isfinite(value) for value in scores.values()):
            raise ScoringError(f"not a number: {said!r:.80}")
        return scores


def _loaded(function: str) -> Callable[[str, str], Any]:
    """Raises ValueError."""
    place, _, name = function.rpartition(":")
    try:
        found = runpy.run_path(place) if place.endswith(".py") else vars(importlib.import_module(place))
    except Exception as error:
        raise ValueError(f"{place} can't be loaded: {type(error).__name__}: {error}") from error
    loaded: Callable[[str, str], Any] | None = found.get(name)
    if loaded is None:
        raise ValueError(f"{place} has no {name}")
    return loaded
