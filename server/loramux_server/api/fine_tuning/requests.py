"""What a fine-tuning job can be asked for."""

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from loramux_adapters.finetuning.jobs.planning import Wanted
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions
from loramux_adapters.models import AdapterName, parse_adapter_name
from loramux_server.errors import InvalidRequest

_ID_BYTES = 4
FileId = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Key = Annotated[str, Field(min_length=1, max_length=64)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Supervised(_Given):
    """The one method that there is."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(_Given):
    """How it is trained."""

    type: str
    supervised: Supervised | None = None
    dpo: Any = None
    reinforcement: Any = None


class CreateJob(_Given):
    """The body of a creation; `lora` is ours, and goes into the client's `extra_body`."""

    model: str
    training_file: FileId
    validation_file: FileId | None = None
    method: Method | None = None
    hyperparameters: Annotated[Hyperparameters | None, Field(description="Deprecated: `method` has them.")] = None
    lora: LoraOptions = LoraOptions()
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: Annotated[dict[Key, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    integrations: list[Any] | None = None

    @field_validator("method")
    @classmethod
    def _is_supervised(cls, method: Method | None) -> Method | None:
        if method and method.type != "supervised":
            raise ValueError("only the method `supervised` is there")
        return method

    @field_validator("integrations")
    @classmethod
    def _has_none(cls, integrations: list[Any] | None) -> list[Any] | None:
        if integrations:
            raise ValueError("there are no integrations: /metrics and the result files have what a job measures")
        return integrations

    @property
    def wanted(self) -> Wanted:
        """The hyperparameters, wherever they stand."""
        given = self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        return Wanted(hyperparameters=given or self.hyperparameters or Hyperparameters(), lora=self.lora)

    def checked_model(self, base: str) -> str:
        """Return the base's name; raises InvalidRequest for another model's."""
        if self.model != base:
            raise InvalidRequest(f"model: only the base can be fine-tuned here, which is `{base}`.", param="model")
        return base

    def chosen_seed(self) -> int:
        """Return the seed, drawn if none was given."""
        return secrets.randbelow(2**31) if self.seed is None else self.seed


def model_name(base: str, organization: str, suffix: str | None) -> AdapterName:
    """Return a new name for what a job makes: ft:BASE:ORGANIZATION:SUFFIX:ID. Raises InvalidAdapterName."""
    return parse_adapter_name(f"ft:{base}:{organization}:{suffix or ''}:{secrets.token_hex(_ID_BYTES)}")
