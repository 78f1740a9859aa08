"""A scorer of the user's own."""

import importlib
import math
import runpy
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from loramux_loadtests.scorers.base import BaseScorer, Scores, ScoringError


class FunctionScorer(BaseScorer):
    """A function of the user's own: (answer, expected) -> a number, or several by their names.

    `function` is FILE.py:NAME or MODULE:NAME.
    """

    type: Literal["function"]
    function: Annotated[str, Field(pattern=r"^.+:[A-Za-z_]\w*$")]

    @model_validator(mode="after")
    def _can_be_loaded(self) -> Self:
        _loaded(self.function)
        return self

    def score(self, answer: str, expected: str) -> Scores:
        """What the function says; raises ScoringError if it raises, or says what is no number."""
        try:
            said = _loaded(self.function)(answer, expected)
            named = said if isinstance(said, dict) else {"score": said}
            scores = {str(name): float(value) for name, value in named.items()}
        except Exception as error:
            raise ScoringError(f"{type(error).__name__}: {error}") from error
        if not scores or not all(math.isfinite(value) for value in scores.values()):
            raise ScoringError(f"not a number: {said!r:.80}")
        return scores


@lru_cache
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
