"""Request body of a fine-tuning job."""

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from loramux_adapters.finetuning.jobs.plans import RequestedHyperparameters
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions
from loramux_adapters.models import AdapterName, parse_adapter_name
from loramux_server.errors import InvalidRequest

_ID_BYTES = 4
FileId = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Key = Annotated[str, Field(min_length=1, max_length=64)]


class _RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Supervised(_RequestBody):
    """The only supported method."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(_RequestBody):
    """Training method."""

    type: str
    supervised: Supervised | None = None
    dpo: Any = None
    reinforcement: Any = None


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
    integrations: list[Any] | None = None

    @field_validator("method")
    @classmethod
    def _require_supervised(cls, method: Method | None) -> Method | None:
        if method and method.type != "supervised":
            raise ValueError("only the method `supervised` is supported")
        return method

    @field_validator("integrations")
    @classmethod
    def _refuse_integrations(cls, integrations: list[Any] | None) -> list[Any] | None:
        if integrations:
            raise ValueError("integrations are not supported: see /metrics and the job's result files")
        return integrations

    @property
    def requested_hyperparameters(self) -> RequestedHyperparameters:
        """The hyperparameters, from `method` or the deprecated field."""
        supervised = self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        return RequestedHyperparameters(
            hyperparameters=supervised or self.hyperparameters or Hyperparameters(), lora=self.lora
        )

    def require_base(self, base: str) -> str:
        """Return the base's name.

        Raises:
            InvalidRequest: the model is not the base.

        """
        if self.model != base:
            raise InvalidRequest(f"model: only the base `{base}` can be fine-tuned.", param="model")
        return base

    def seed_or_random(self) -> int:
        """Return the seed, random if none was given."""
        return secrets.randbelow(2**31) if self.seed is None else self.seed


def model_name(base: str, organization: str, suffix: str | None) -> AdapterName:
    """Return a new name for a job's adapter: ft:BASE:ORGANIZATION:SUFFIX:ID.

    Raises:
        InvalidAdapterName: the name would be too long.

    """
    return parse_adapter_name(f"ft:{base}:{organization}:{suffix or ''}:{secrets.token_hex(_ID_BYTES)}")
