"""A fine-tuning job of another provider, in the form of OpenAI's API, and what of it carries over.

The fields are those of https://platform.openai.com/docs/api-reference/fine-tuning/object. A manifest that a user wrote
needs only `training_file`; unknown fields are ignored, and null is the same as absent.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]
_SUFFIX = re.compile(r"[^A-Za-z0-9._-]+")
MAX_SUFFIX_LENGTH = 64
MAX_SEED = 2**31 - 1
SUCCEEDED = "succeeded"


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data


class SourceHyperparameters(_Lenient):
    """Hyperparameters; `auto` and what is unknown are left out of the new job."""

    n_epochs: int | str = "auto"
    batch_size: int | str = "auto"
    learning_rate_multiplier: float | str = "auto"
    beta: float | str = "auto"


class _MethodSettings(_Lenient):
    hyperparameters: SourceHyperparameters = SourceHyperparameters()


class SourceMethod(_Lenient):
    """The training method: `supervised`, `dpo` or `reinforcement`."""

    type: Text = "supervised"
    supervised: _MethodSettings | None = None
    dpo: _MethodSettings | None = None


class SourceJob(_Lenient):
    """A job of another provider. `id` names it for good: by it, the job is found again on the loramux server."""

    id: Annotated[Text, Field(min_length=1)]
    status: Text = SUCCEEDED
    model: Text = ""
    fine_tuned_model: Text | None = None
    created_at: int = 0
    training_file: Text | None = None
    validation_file: Text | None = None
    more_training_files: tuple[Text, ...] = ()
    """Further files, for providers whose jobs have several."""
    method: SourceMethod | None = None
    hyperparameters: SourceHyperparameters | None = None
    seed: int | None = None
    own_suffix: Annotated[Text | None, Field(alias="suffix")] = None
    integrations: tuple[Any, ...] = ()
    metadata: dict[str, Any] = {}
    checkpoints: int = 0

    @model_validator(mode="before")
    @classmethod
    def _name_after_file(cls, data: Any) -> Any:
        """Give a job of a hand-written manifest an id: its file's name, or a hash if two have the same file."""
        if isinstance(data, Mapping) and not data.get("id") and data.get("training_file"):
            return {**data, "id": data.get("fine_tuned_model") or PurePath(str(data["training_file"])).stem}
        return data

    @property
    def method_type(self) -> str:
        """The training method's name."""
        return self.method.type if self.method else "supervised"

    @property
    def chosen(self) -> SourceHyperparameters:
        """The hyperparameters, from the method or the deprecated field."""
        method = self.method
        settings = (method.dpo if method.type == "dpo" else method.supervised) if method else None
        if settings and settings.hyperparameters != SourceHyperparameters():
            return settings.hyperparameters
        return self.hyperparameters or SourceHyperparameters()

    @property
    def training_files(self) -> tuple[str, ...]:
        """The ids of all training files."""
        return ((self.training_file,) if self.training_file else ()) + self.more_training_files

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The ids of all files of the job."""
        return self.training_files + ((self.validation_file,) if self.validation_file else ())

    @property
    def name(self) -> str:
        """What people call the model: its name, or the job's id if it has none."""
        return self.fine_tuned_model or self.id

    @property
    def suffix(self) -> str | None:
        """The suffix of the job, or else of the model's name `ft:BASE:ORG:SUFFIX:ID`, as loramux accepts it."""
        parts = (self.fine_tuned_model or "").split(":")
        given = self.own_suffix or (parts[3] if len(parts) == 5 and parts[0] == "ft" else "")
        return _SUFFIX.sub("-", given).lstrip("._-")[:MAX_SUFFIX_LENGTH] or None

    def digest(self) -> str:
        """A short hash of the job's id, for names of files."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:12]

    def as_manifest_entry(self) -> dict[str, Any]:
        """The job as JSON, which can be read again."""
        found: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True, exclude_none=True))
        return found

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Parse a job.

        Raises:
            pydantic.ValidationError: it has no id, or a field has a wrong type.
        """
        return cls.model_validate(data)
