"""What tokens cost."""

from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

Dollars = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Counted(Protocol):
    """A request whose tokens were counted; `input_tokens` include the cached ones."""

    @property
    def input_tokens(self) -> int:
        """Of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those that the server had already."""

    @property
    def output_tokens(self) -> int:
        """Of the answer."""


class TokenPrices(BaseModel):
    """US dollars for a million tokens; cached ones cost what any input costs, where that is left open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Dollars = 0.0
    cached: Dollars | None = None
    output: Dollars = 0.0

    def usd(self, request: Counted) -> float:
        """What one request costs; a failed one costs the tokens that were counted."""
        cached = self.input if self.cached is None else self.cached
        new = request.input_tokens - request.cached_tokens
        return (new * self.input + request.cached_tokens * cached + request.output_tokens * self.output) / 1e6
