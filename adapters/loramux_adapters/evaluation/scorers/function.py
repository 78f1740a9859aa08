"""Scoring by a function of the user."""

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
    """A function of the user: (answer, expected) -> a number, or a dict of numbers by name.

    `function` is FILE.py:NAME or MODULE:NAME.
    """

    type: Literal["function"]
    function: Annotated[str, Field(pattern=r"^.+:[A-Za-z_]\w*$")]

    @field_validator("function")
    @classmethod
    def _resolve_path(cls, function: str, info: ValidationInfo) -> str:
        """Take a relative file as relative to the plan that names it."""
        module, _, name = function.rpartition(":")
        folder = (info.context or {}).get("folder")
        return f"{folder / module}:{name}" if folder and module.endswith(".py") else function

    @model_validator(mode="after")
    def _check_function(self) -> Self:
        _ = self._callable
        return self

    @cached_property
    def _callable(self) -> Callable[[str, str], Any]:
        return _load_function(self.function)

    def cache_key(self) -> dict[str, Any]:
        """Include the file's content, so that a changed function scores again."""
        module, _, name = self.function.rpartition(":")
        if not module.endswith(".py"):
            return super().cache_key()
        return {"type": self.type, "function": name, "file": hashlib.sha256(Path(module).read_bytes()).hexdigest()}

    def score(self, answer: str, expected: str) -> Scores:
        """Call the function; a single number is reported as `score`.

        Raises:
            ScoringError: the function raised, or returned something else than finite numbers.
        """
        try:
            returned = self._callable(answer, expected)
            named = returned if isinstance(returned, dict) else {"score": returned}
            scores = {str(name): float(value) for name, value in named.items()}
        except Exception as error:
            raise ScoringError(f"{type(error).__name__}: {error}") from error
        if not scores or not all(math.isfinite(value) for value in scores.values()):
            raise ScoringError(f"the function must return finite numbers, but returned {returned!r:.80}")
        return scores


def _load_function(function: str) -> Callable[[str, str], Any]:
    module, _, name = function.rpartition(":")
    try:
        names = runpy.run_path(module) if module.endswith(".py") else vars(importlib.import_module(module))
    except Exception as error:
        raise ValueError(f"{module} can't be loaded: {type(error).__name__}: {error}") from error
    loaded: Callable[[str, str], Any] | None = names.get(name)
    if loaded is None:
        raise ValueError(f"{module} does not define {name!r}")
    return loaded
