"""The words of the adapters' room as values: names, versions, the base's shapes, what was accepted."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NewType, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from loramux_adapters.errors import InvalidAdapterName, InvalidVersion, UnsupportedBase

AdapterName = NewType("AdapterName", str)
"""A name that `parse_adapter_name` let through. It may be shown and compared; it is never made into a path."""

Digest = NewType("Digest", str)
"""12 lower-case hex characters, the start of a version's SHA-256: what a version id carries."""

Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]

MAX_NAME_LENGTH = 128
DIGEST_LENGTH = 12
# Upper case, ":" and "/" are in because OpenAI's fine-tunes are called `ft:BASE:ORG:SUFFIX:ID`, and bases `ORG/MODEL`.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
_DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
_MAX_CONFIG_BYTES = 1 << 20


def parse_adapter_name(text: str) -> AdapterName:
    """Return `text` as a name, or raise InvalidAdapterName."""
    if len(text) > MAX_NAME_LENGTH or not _NAME.fullmatch(text):
        raise InvalidAdapterName(
            f"An adapter's name is 1 to {MAX_NAME_LENGTH} ASCII letters, digits and . _ : - in parts divided by /, "
            "each part beginning with a letter or digit."
        )
    return AdapterName(text)


def parse_digest(text: str) -> Digest:
    """Return `text` as a version's digest, or raise InvalidVersion."""
    if not _DIGEST.fullmatch(text):
        raise InvalidVersion(f"A version's digest is {DIGEST_LENGTH} lower-case hex characters.")
    return Digest(text)


class VersionId(NamedTuple):
    """One immutable set of weights of one adapter, written `NAME@DIGEST`."""

    name: AdapterName
    digest: Digest

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME@DIGEST`; raises InvalidVersion or InvalidAdapterName."""
        name, at, digest = text.partition("@")
        if not at:
            raise InvalidVersion("A version is written NAME@DIGEST.")
        return cls(parse_adapter_name(name), parse_digest(digest))

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"


class VersionState(StrEnum):
    """Whether a version may serve."""

    PROVING = "proving"
    """Its files are sound; the engine has not shown yet that it has an effect."""
    READY = "ready"
    REJECTED = "rejected"
    """It failed its proof and never served."""
    QUARANTINED = "quarantined"
    """It served, and then answered garbage or lost its files."""

    def can_become(self, other: "VersionState") -> bool:
        """Whether this step exists; what is rejected or quarantined starts again only by being added again."""
        return other in _STEPS[self]


_STEPS = {
    VersionState.PROVING: {VersionState.READY, VersionState.REJECTED},
    VersionState.READY: {VersionState.QUARANTINED},
    VersionState.REJECTED: {VersionState.PROVING},
    VersionState.QUARANTINED: {VersionState.PROVING},
}


class ProbeAnswer(BaseModel):
    """What the base and an adapter answered to one probe."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    base: str
    adapter: str


class Proof(BaseModel):
    """What the engine showed of a version when it was added.

    `difference` is the largest absolute difference of the probes' log-probabilities from the base's, in nats; `noise`
    the same between two runs of the base; `finite` whether every log-probability of the adapter is a number.
    """

    model_config = ConfigDict(frozen=True)

    answers: tuple[ProbeAnswer, ...]
    difference: float
    noise: float
    finite: bool


class Tier(StrEnum):
    """Where a version is: known only, in the engine's host memory, or in one of its slots too."""

    REGISTERED = "registered"
    HOST = "host"
    SLOT = "slot"


ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""The bases whose layers hold exactly LINEAR_MODULES."""

LINEAR_MODULES = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
"""The modules of a layer that an adapter may change, and the block that each is in."""


class BaseSpec(BaseModel):
    """The base model as far as its adapters are concerned: the sizes that its config.json declares."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    architecture: str
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    num_hidden_layers: PositiveInt
    vocab_size: PositiveInt

    @classmethod
    def from_config(cls, config: object, name: str) -> Self:
        """Read a parsed config.json; raises UnsupportedBase."""
        architectures = config.get("architectures") if isinstance(config, dict) else None
        architecture = architectures[0] if isinstance(architectures, list) and architectures else None
        if not isinstance(config, dict) or architecture not in ARCHITECTURES:
            raise UnsupportedBase(
                f"The base's architecture is {str(architecture)[:80]!r}; "
                f"adapters can be served on {', '.join(ARCHITECTURES)}."
            )
        try:
            return cls.model_validate(_completed(config) | {"name": name, "architecture": architecture})
        except ValidationError as error:
            keys = sorted({str(key) for problem in error.errors() for key in problem["loc"]})
            raise UnsupportedBase(
                f"The base's config.json lacks or has no sound value for: {', '.join(keys)}."
            ) from error

    @classmethod
    def from_folder(cls, path: Path, name: str) -> Self:
        """Read the config.json of the base in `path`; raises UnsupportedBase."""
        try:
            with (path / "config.json").open("rb") as file:
                config = json.loads(file.read(_MAX_CONFIG_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise UnsupportedBase(f"The base's config.json can't be read: {type(error).__name__}.") from error
        return cls.from_config(config, name)

    @property
    def parameters(self) -> int:
        """About how many elements the weights have: the linear modules' and the embedding's."""
        layer = sum(inputs * outputs for inputs, outputs in map(self.module_shape, LINEAR_MODULES))
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * layer

    def module_shape(self, module: str) -> tuple[int, int]:
        """Return (inputs, outputs) of the linear module `module` (a key of LINEAR_MODULES); raises KeyError."""
        query, key_value = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, query),
            "k_proj": (self.hidden_size, key_value),
            "v_proj": (self.hidden_size, key_value),
            "o_proj": (query, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }[module]


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Derive what older configs leave out or null, as transformers does."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    derived = {"num_key_value_heads": heads}
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        derived["head_dim"] = hidden // heads
    return derived | {key: value for key, value in config.items() if value is not None}


class FileFacts(BaseModel):
    """One stored file: its size in bytes and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: Sha256


class Manifest(BaseModel):
    """What validation found in an accepted version; stored beside its files. It holds for an equal `base` only.

    `digest` is the full SHA-256 that names the content (see store.py); `scaling` is what the engine multiplies B·A by;
    `parameters` counts elements; `weights_bytes` is the size of the tensors alone. Single modules may have a smaller
    rank and a scaling of their own. `warnings` are for people: what is odd and no reason to refuse.
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
    files: dict[str, FileFacts]
    warnings: tuple[str, ...] = ()

    def version_of(self, name: AdapterName) -> VersionId:
        """Return this content's id as a version of the adapter `name`."""
        return VersionId(name, Digest(self.digest[:DIGEST_LENGTH]))
