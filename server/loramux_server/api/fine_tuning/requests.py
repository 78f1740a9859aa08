"""Request body of a fine-tuning job."""

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loramux_adapters.finetuning.jobs.plans import RequestedHyperparameters
from loramux_adapters.finetuning.recipes.hyperparameters import DpoHyperparameters, Hyperparameters, LoraOptions
from loramux_adapters.models import AdapterName, parse_adapter_name

_ID_BYTES = 4
FileId = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Key = Annotated[str, Field(min_length=1, max_length=64)]


class _RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Supervised(_RequestBody):
    """Training on the answers of conversations."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(_RequestBody):
    """Direct preference optimization, on pairs of answers."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(_RequestBody):
    """Training method: `supervised` or `dpo`."""

    type: str
    supervised: Supervised = Supervised()
    dpo: Dpo = Dpo()
    reinforcement: Any = None


class Wandb(_RequestBody):
    """A run at Weights & Biases."""

    project: Annotated[str, Field(min_length=1, max_length=128)]
    entity: Annotated[str, Field(max_length=128)] | None = None
    name: Annotated[str, Field(max_length=128)] | None = None
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=16)] | None = None


class Integration(_RequestBody):
    """Where the metrics of a job are sent."""

    type: Literal["wandb"]
    wandb: Wandb


class CreateJob(_RequestBody):
    """Body of a job creation; `lora` is not in OpenAI's API: its clients send it as `extra_body`."""

    model: str
    training_file: FileId
    validation_file: FileId | None = None
    method: Method | None = None
    hyperparameters: Annotated[Hyperparameters | None, Field(description="Deprecated: use `method`.")] = None
    lora: LoraOptions = LoraOptions()
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: Annotated[dict[Key, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    integrations: Annotated[list[Integration], Field(max_length=4)] | None = None
    alias: Annotated[str | None, Field(description="Name by which the adapter can be requested too, once trained.")] = (
        None
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: object) -> object:
        """Take null as absent, in objects at any depth, as OpenAI does."""
        return _without_nulls(body)

    @field_validator("method")
    @classmethod
    def _refuse_others(cls, method: Method | None) -> Method | None:
        if method and method.type not in ("supervised", "dpo"):
            raise ValueError("expected type `supervised` or `dpo`; other methods are not supported")
        return method

    @property
    def requested_hyperparameters(self) -> RequestedHyperparameters:
        """The hyperparameters, from `method` or the deprecated field."""
        if self.method and self.method.type == "dpo":
            asked = self.method.dpo.hyperparameters
            shared = Hyperparameters(**asked.model_dump(exclude={"beta"}))
            return RequestedHyperparameters(method="dpo", hyperparameters=shared, beta=asked.beta, lora=self.lora)
        # The deprecated field, unless the method has its own.
        supervised = self.method.supervised.hyperparameters if self.method else Hyperparameters()
        given = supervised if supervised.model_fields_set else self.hyperparameters or supervised
        return RequestedHyperparameters(hyperparameters=given, lora=self.lora)

    @property
    def integration_documents(self) -> list[dict[str, Any]] | None:
        """The integrations in OpenAI's form, as they are stored."""
        found = [integration.model_dump(exclude_none=True) for integration in self.integrations or ()]
        return found or None

    def checked_alias(self, check: Callable[[AdapterName], None]) -> AdapterName | None:
        """Return the alias, which `check` accepts.

        Raises:
            AdapterError: it has an invalid name, or `check` refuses it.
        """
        if self.alias is None:
            return None
        alias = parse_adapter_name(self.alias)
        check(alias)
        return alias

    def seed_or_random(self) -> int:
        """Return the seed, random if none was given."""
        return secrets.randbelow(2**31) if self.seed is None else self.seed


def _without_nulls(value: object) -> object:
    return (
        {key: _without_nulls(item) for key, item in value.items() if item is not None}
        if isinstance(value, dict)
        else value
    )


def model_name(base: str, organization: str, suffix: str | None) -> AdapterName:
    """Return a new name for a job's adapter: ft:BASE:ORGANIZATION:SUFFIX:ID.

    Raises:
        InvalidAdapterName: the name would be too long.

    """
    return parse_adapter_name(f"ft:{base}:{organization}:{suffix or ''}:{secrets.token_hex(_ID_BYTES)}")
