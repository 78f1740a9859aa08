"""The limits of a key, a project or an adapter; pure values."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

EVERY = "*"
"""The name that stands for every key, project or adapter, each with limits of its own."""

Count = Annotated[int, Field(ge=0, le=10**15)]
Dollars = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False)]


class SubjectKind(StrEnum):
    """What can have limits."""

    KEY = "key"
    PROJECT = "project"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """A key by its id, a project or an adapter by its name."""

    kind: SubjectKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Limit(BaseModel):
    """The limits of one subject; None for no limit, 0 to refuse all."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    requests_per_minute: Count | None = None
    """Requests that may start at once, after a pause of a minute; the allowance refills evenly."""
    tokens_per_minute: Count | None = None
    """Tokens of prompts and answers, as `requests_per_minute`."""
    concurrent_requests: Count | None = None
    """Requests that may run at the same time."""
    tokens_per_day: Count | None = None
    """Tokens of prompts and answers in a day, which begins at midnight UTC."""
    tokens_per_month: Count | None = None
    """Tokens of prompts and answers in a calendar month (UTC)."""
    usd_per_day: Dollars | None = None
    """US dollars by the price list in a day (UTC); what has no price counts as 0."""
    usd_per_month: Dollars | None = None
    """US dollars by the price list in a calendar month (UTC); what has no price counts as 0."""

    def over(self, default: Self) -> Self:
        """Return these limits, with those of `default` where none is set here."""
        return self.model_copy(update={name: value for name, value in default if getattr(self, name) is None})

    @property
    def values(self) -> dict[str, int | Decimal]:
        """The limits that are set, by name."""
        return {name: value for name, value in self if value is not None}


NO_LIMIT = Limit()
NANODOLLARS = 10**9
"""Per dollar."""
