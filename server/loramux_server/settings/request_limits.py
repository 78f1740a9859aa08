"""Limits of a single request, so that none of them stops the others."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class GrammarLimits(BaseModel):
    """Limits of what an answer must match: a JSON schema, regular expression, choice, grammar or structural tag."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_bytes: PositiveInt = 256 * 1024
    """Maximum size in bytes, as JSON."""
    max_depth: Annotated[int, Field(ge=1, le=80)] = 64
    """Maximum number of nested objects and lists in a schema or structural tag."""
    max_values: PositiveInt = 20_000
    """Maximum number of values in a schema, structural tag or choice."""
    cpu_seconds: PositiveFloat = 5.0
    """Maximum CPU time to compile it. It is compiled in a process of its own first, which ends at this limit."""
    memory_mib: Annotated[int, Field(ge=16)] = 512
    """Maximum memory to compile it, in MiB."""
    step_seconds: PositiveFloat = 0.1
    """Maximum CPU time to find the tokens that may come next: every step of the engine waits for it."""


class RequestLimits(BaseModel):
    """Limits of a request's size, besides that of its body."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_sequences: PositiveInt = 128
    """Maximum number of answers of a request: its prompts times `n`."""
    max_values: PositiveInt = 1_000_000
    """Maximum number of values in a JSON body, among them the token ids of prompts."""
