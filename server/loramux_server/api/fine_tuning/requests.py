"""Request body of a fine-tuning job."""

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loramux_adapters.finetuning.jobs.plans import RequestedHyperparameters
from loramux_adapters.finetuning.recipes.hyperparameters import DpoHyperparameters, Hyperparameters, LoraOptions
from loramux_adapters.models import AdapterName, parse_adapter_name

_ID_BYTES = 4
_MAX_DEPTH = 16
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

    @model_validator(mode="after")
    def _refuse_other_sections(self) -> Self:
        """Refuse the settings of another method, which would be ignored."""
        others = {"supervised", "dpo"} - {self.type}
        if self.type in ("supervised", "dpo") and (given := others & self.model_fields_set):
            raise ValueError(f"{given.pop()}: expected `{self.type}` alone, as the type says")
        return self


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
        """Take null as absent in objects at any depth, as OpenAI does."""
        return _without_nulls(body)

    @field_validator("method")
    @classmethod
    def _refuse_others(cls, method: Method | None) -> Method | None:
        if method and method.type not in ("supervised", "dpo"):
            raise ValueError("expected type `supervised` or `dpo`; other methods are not supported")
        return method

    @model_validator(mode="after")
    def _refuse_two_places(self) -> Self:
        """Refuse hyperparameters that would be ignored."""
        if self.hyperparameters and self.hyperparameters.model_fields_set and self._of_method.model_fields_set:
            raise ValueError("hyperparameters: expected in `method` alone; the request has them in both places")
        return self

    @property
    def _of_method(self) -> Hyperparameters | DpoHyperparameters:
        if self.method is None:
            return Hyperparameters()
        return (self.method.dpo if self.method.type == "dpo" else self.method.supervised).hyperparameters

    @property
    def requested_hyperparameters(self) -> RequestedHyperparameters:
        """The hyperparameters, from `method` or the deprecated field."""
        asked = self._of_method
        shared = Hyperparameters.model_validate(asked.model_dump(include=set(Hyperparameters.model_fields)))
        if not asked.model_fields_set - {"beta"}:
            shared = self.hyperparameters or shared
        if isinstance(asked, DpoHyperparameters):
            return RequestedHyperparameters(method="dpo", hyperparameters=shared, beta=asked.beta, lora=self.lora)
        return RequestedHyperparameters(hyperparameters=shared, lora=self.lora)

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


def _without_nulls(value: object, depth: int = 0) -> object:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested too deeply; expected at most {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {key: _without_nulls(item, depth + 1) for key, item in value.items() if item is not None}
    return [_without_nulls(item, depth + 1) for item in value] if isinstance(value, list) else value


def model_name(base: str, organization: str, suffix: str | None) -> AdapterName:
    """Return a new name for a job's adapter: ft:BASE:ORGANIZATION:SUFFIX:ID.

    Raises:
        InvalidAdapterName: the name would be too long.

    """
    return parse_adapter_name(f"ft:{base}:{organization}:{suffix or ''}:{secrets.token_hex(_ID_BYTES)}")
