"""The value types of this package: adapter names, versions, the base's identity, and manifests of accepted files."""

import re
from enum import StrEnum
from typing import Annotated, NamedTuple, NewType, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
)

from loramux_adapters.errors import InvalidAdapterName, InvalidVersion

AdapterName = NewType("AdapterName", str)
"""A name that `parse_adapter_name` accepted. It may be shown and compared; it is never made into a path."""

Digest = NewType("Digest", str)
"""The first 12 lower-case hex characters of a version's SHA-256, as used in version ids."""

Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]

DEFAULT_PROJECT = "default"
"""The project of whatever was made without another one."""
MAX_PROJECT_LENGTH = 64
MAX_NAME_LENGTH = 128
DIGEST_LENGTH = 12
# Upper case, ":" and "/" are in because OpenAI's fine-tunes are called `ft:BASE:ORG:SUFFIX:ID`, and bases `ORG/MODEL`.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
_DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")


def parse_adapter_name(text: str) -> AdapterName:
    """Return `text` as an adapter name.

    Raises:
        InvalidAdapterName: it is too long or has other characters.
    """
    if len(text) > MAX_NAME_LENGTH or not _NAME.fullmatch(text):
        raise InvalidAdapterName(
            f"An adapter's name must have 1 to {MAX_NAME_LENGTH} ASCII letters, digits and . _ : - in parts separated "
            "by /, and each part must begin with a letter or digit."
        )
    return AdapterName(text)


def parse_digest(text: str) -> Digest:
    """Return `text` as a version's digest.

    Raises:
        InvalidVersion: it is not DIGEST_LENGTH lower-case hex characters.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidVersion(f"A version's digest must be {DIGEST_LENGTH} lower-case hex characters.")
    return Digest(text)


class VersionId(NamedTuple):
    """One immutable set of weights of one adapter, written `NAME@DIGEST`."""

    name: AdapterName
    digest: Digest

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NAME@DIGEST`.

        Raises:
            InvalidVersion: there is no `@`, or the digest is invalid.
            InvalidAdapterName: the name is invalid.
        """
        name, at, digest = text.partition("@")
        if not at:
            raise InvalidVersion("A version must be written NAME@DIGEST.")
        return cls(parse_adapter_name(name), parse_digest(digest))

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"


class VersionState(StrEnum):
    """The lifecycle state of a version: only READY versions are served."""

    CHECKING = "proving"
    """Its files are valid, and its effect has not been checked on the engine yet."""
    READY = "ready"
    REJECTED = "rejected"
    """It failed its effect check and was never served."""
    QUARANTINED = "quarantined"
    """It was served until it computed NaN or infinite values, or its files were changed."""

    def can_become(self, other: "VersionState") -> bool:
        """Whether this transition exists; rejected and quarantined versions return to CHECKING when added again."""
        return other in _TRANSITIONS[self]


_TRANSITIONS = {
    VersionState.CHECKING: {VersionState.READY, VersionState.REJECTED},
    VersionState.READY: {VersionState.QUARANTINED},
    VersionState.REJECTED: {VersionState.CHECKING},
    VersionState.QUARANTINED: {VersionState.CHECKING},
}


class ProbeAnswer(BaseModel):
    """The texts that the base and an adapter generated for one prompt of the effect check."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    base: str
    adapter: str


class EffectCheck(BaseModel):
    """The result of a version's effect check.

    `difference` is the largest absolute difference of a log-probability between the version and the base, in nats;
    `noise` is the same between two runs of the base; `finite` is False if the version computed NaN or infinite values.
    """

    model_config = ConfigDict(frozen=True)

    answers: tuple[ProbeAnswer, ...]
    difference: float
    noise: float
    finite: bool


class Tier(StrEnum):
    """Where a version is: on disk only, in the engine's host memory, or also in one of its slots."""

    REGISTERED = "registered"
    HOST = "host"
    SLOT = "slot"


class BaseSpec(BaseModel):
    """What identifies a base: its name, and sizes that another base of this name would hardly share."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    architecture: str
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    vocab_size: PositiveInt
    modules_digest: Sha256 | None = None
    """The SHA-256 of the modules that vLLM applies adapters to, and of their shapes: they depend on the machine, the
    settings and the libraries, too. None in manifests of release 0.2 and older."""

    def matches(self, other: Self) -> bool:
        """Whether both are the same base, whatever vLLM applies adapters to."""
        return self.model_copy(update={"modules_digest": other.modules_digest}) == other


class FileInfo(BaseModel):
    """One stored file: its size in bytes and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: Sha256


class Manifest(BaseModel):
    """The properties of a valid version, stored next to its files; they hold for an equal `base` only.

    `digest` is the full SHA-256 of the content (see `content_digest`); `rank` is the largest rank of a module;
    `scaling` is the factor of B·A, except in modules with a rank or alpha of their own; `parameters` is the number of
    elements; `weights_bytes` is the size of the tensors alone; `warnings` are sentences for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Sha256
    base: BaseSpec
    rank: PositiveInt
    alpha: float
    use_rslora: bool
    scaling: float
    target_modules: tuple[str, ...]
    layers: tuple[int, ...]
    dtypes: tuple[str, ...]
    parameters: PositiveInt
    weights_bytes: PositiveInt
    files: dict[str, FileInfo]
    warnings: tuple[str, ...] = ()

    def version_id(self, name: AdapterName) -> VersionId:
        """Return the id of this content as a version of the adapter `name`."""
        return VersionId(name, Digest(self.digest[:DIGEST_LENGTH]))
