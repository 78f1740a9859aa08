"""The settings of the server's log."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class LogSettings(BaseModel):
    """The log on standard error. It never contains API keys or prompts, unless `tracebacks` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["text", "json"] = "text"
    """`json`: one JSON object per line, also for the steps of the start and in the engine's log."""
    requests: bool = False
    """Whether each request is logged when it ends: id, method, path without query, status, seconds, API key's id."""
    tracebacks: bool = False
    """Whether an unexpected error of a request is logged with its message and traceback, which may quote the prompt;
    otherwise only its type and its place in the code."""
