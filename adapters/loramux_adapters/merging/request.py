"""What the merging process is asked to do, and what it reports: JSON files in the folder in which it works."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REQUEST_FILE, REPORT_FILE, MODEL_FOLDER = "request.json", "report.json", "model"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class MergeRequest(BaseModel):
    """A base and the folder of an adapter of it; `dtype` `auto` is that of the base's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Path
    adapter: Path
    dtype: Dtype = "auto"
    device: str = "cpu"
    conversations: Annotated[list[list[dict[str, Any]]], Field(min_length=1)]
    """Messages of the conversations whose answers are compared, each ending before an answer."""
    max_tokens: int = 32


class Difference(BaseModel):
    """An answer of the merged model that is not the adapter's.

    `token` is the first that differs, from 0, and `gap` is by how much the adapter preferred its own there, in nats.
    """

    model_config = ConfigDict(frozen=True)

    conversation: int
    token: int
    gap: float
    adapter: str
    merged: str


class MergeReport(BaseModel):
    """What the process has done; `error` says why it could not."""

    model_config = ConfigDict(frozen=True)

    error: str | None = None
    dtype: str = ""
    parameters: int = 0
    weights_bytes: int = 0
    answers: int = 0
    tokens: int = 0
    differences: list[Difference] = []
    tie: float = 0.0
    """Gap in nats up to which two tokens are a tie at this precision."""

    @property
    def untied(self) -> list[Difference]:
        """The differences that rounding does not explain."""
        return [difference for difference in self.differences if difference.gap > self.tie]
