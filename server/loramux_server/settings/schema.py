"""The settings: their names, types, defaults and validation."""

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

import loramux_adapters
from loramux_adapters.errors import InvalidAdapterName, printable
from loramux_adapters.intake.sources.urls import split_url
from loramux_adapters.models import parse_adapter_name
from loramux_server.limits.limit import Limit, SubjectKind
from loramux_server.metering.pricing import Prices
from loramux_server.settings.log_settings import LogSettings
from loramux_server.settings.request_limits import GrammarLimits, RequestLimits
from loramux_server.transport.limits import ConnectionLimits
from loramux_server.webhooks.endpoints import WebhookSettings

PREFIX = "LORAMUX_"
EXAMPLES_FOLDER = Path(loramux_adapters.__file__).parent / "examples"
"""The demo's adapters, which the package contains."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:\d{1,5})?|[a-z][a-z0-9+.-]*://\[[0-9a-f:]+\](:\d{1,5})?")
_API_KEY = re.compile(r"[!-~]+")


class TrainingSettings(BaseModel):
    """Settings of fine-tuning jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    """Device on which jobs train: cpu, or a GPU such as cuda:1. `auto` takes the GPU with most free memory on which the
    job fits, or else the CPU."""
    quantize: Literal["auto", "never", "always"] = "auto"
    """Whether jobs hold the base in 4 bits on a GPU, which needs bitsandbytes: `never`, `always`, or if it does not fit
    otherwise (`auto`)."""
    base: Annotated[str, Field(min_length=1)] | None = None
    """Folder or Hub id of the unquantized base, on which jobs train if the weights that are served are quantized."""
    priority: Literal["idle", "low", "equal"] = "idle"
    """Share of a busy CPU that the trainer gets: `idle` (what serving leaves), `low` (a tenth) or `equal` (half)."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Maximum number of CPU threads of the trainer; None for torch's default."""
    queue: Annotated[int, Field(ge=1, le=100_000)] = 100  # every job is queued first, so 0 would refuse all
    """Maximum number of queued jobs of a project."""
    sleep: bool = False
    """Whether the engine frees its GPU memory while a job trains; requests get status 503 until the training ends."""
    save_seconds: PositiveFloat = 30.0
    """Seconds between saved training states, the most training that a kill can lose."""
    evaluation_items: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Maximum number of validation examples on which base and adapter are compared when a job ends; 0 for none."""
    evaluation_margin: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Difference of their mean scores, 0 to 1, below which the comparison calls an adapter as good as the base."""
    self_test: bool = True
    """Whether a trained adapter must give the answers that it has learned before its name points at it."""
    early_stopping_patience: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Passes over the validation file (ten in a whole training) without a lower loss, after which a job stops; its
    result is the adapter of the lowest loss. None: jobs train to their end, unless they ask for it."""

    @model_validator(mode="after")
    def _check_quantize(self) -> Self:
        if self.quantize == "always" and self.device == "cpu":
            raise ValueError("quantize is always, which needs a GPU, and device is cpu: set one of them differently")
        return self

    @model_validator(mode="after")
    def _check_sleep(self) -> Self:
        if self.sleep and self.device == "cpu":
            raise ValueError("sleep frees the GPU for the training, and device is cpu: set one of them differently")
        return self


class FairnessSettings(BaseModel):
    """How the engine is shared while more is asked of it than it can do at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    enabled: bool = True
    """Whether runs are handed to the engine in a fair order; off, vLLM's own queue decides, which has no bound."""
    queue_tokens: PositiveInt | None = None
    """Tokens of work that may wait before requests are refused with status 503; an answer's token counts as two. None:
    four times what a full engine works on, by the size of recent requests."""
    key_weights: dict[str, PositiveFloat] = {}
    """Shares of API keys relative to others', by the id that the usage report shows; 1 if not set."""
    adapter_weights: dict[str, PositiveFloat] = {}
    """Shares of adapters relative to a key's others; 1 if not set."""


class LimitSettings(BaseModel):
    """Limits of keys, projects and adapters by name; `*` stands for every one of them, each with its own allowance."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keys: dict[str, Limit] = {}
    """Limits of API keys, by the id that the usage report shows."""
    projects: dict[str, Limit] = {}
    """Limits of projects."""
    adapters: dict[str, Limit] = {}
    """Limits of adapters, for all of their users together."""
    unset_max_tokens: Annotated[int, Field(ge=1)] = 1024
    """Tokens of the answer that are reserved for a request that sets no maximum; it is charged for what it uses."""

    @property
    def by_kind(self) -> dict[SubjectKind, dict[str, Limit]]:
        """The limits by kind and name."""
        return {SubjectKind.KEY: self.keys, SubjectKind.PROJECT: self.projects, SubjectKind.ADAPTER: self.adapters}


class Settings(BaseSettings):
    """Settings of a server, created by `load_settings`; the constructor reads neither files nor the environment.

    `engine` holds vLLM's own argument names. Paths may be relative to the working folder.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        use_attribute_docstrings=True,  # docs/reference/settings.md is generated from them
    )

    host: str = "127.0.0.1"
    """Address to listen on. Addresses that other machines can reach require `api_keys`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 for any free port."""
    data_dir: Path = Path(".loramux")
    """Folder of the adapters, the database, converted base models and the engine's log."""
    base: str = Field(default="demo", min_length=1)
    """Base model: a folder, a Hugging Face Hub id, or `demo`."""
    base_revision: str | None = None
    """Branch, tag or commit of a base model on the Hub; None for the default branch, pinned to its commit."""
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['data_dir']}/loramux.sqlite3",
        repr=False,  # it may contain a password
    )
    """SQLAlchemy URL of the database: SQLite, or PostgreSQL as `postgresql+psycopg://...`."""
    engine: dict[str, Any] = {}
    """Arguments of vLLM by name, such as `max_loras`; those that are not set are chosen for the machine."""
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda data: (Path("my-adapters"), Path("adapters"), data["data_dir"])
    )
    """Folders from which adapters may be added."""
    allowed_urls: Annotated[tuple[str, ...], NoDecode] = ("s3://", "gs://", "az://", "abfs://")
    """URL prefixes from which adapters may be fetched."""
    adapters: dict[str, Path] = Field(default_factory=lambda data: _examples() if data["base"] == "demo" else {})
    """Names and folders of adapters that are registered at start; by default the examples, if the base is the demo."""
    aliases: dict[str, str] = {}
    """Other names of models, such as those of an old provider: `gpt-4o-mini: tone`. A target is an adapter (whatever
    its name points at), NAME@DIGEST, or the base by its name. More can be set at run time (`loramux alias set`)."""
    proof: bool = True
    """Whether a new version must show an effect on the engine before it is served."""
    base_mismatch: Literal["warn", "refuse"] = "warn"
    """Whether an adapter whose config names another base is refused; folders get renamed, so the default is `warn`."""
    adapter_chat_template: Literal["use", "ignore", "refuse"] = "use"
    """What is done with a chat template that comes with an adapter and differs from the base's: it is used for requests
    to that adapter (`use`), it is ignored (`ignore`), or the adapter is refused (`refuse`)."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """API keys of administrators, who create the other keys; without any, the server is open and listens on loopback
    addresses only."""
    limits: LimitSettings = LimitSettings()
    """Limits and budgets of keys, projects and adapters, until others are set at run time (`loramux limit set`)."""
    fairness: FairnessSettings = FairnessSettings()
    """How keys and adapters share a busy engine, and how much may wait for it."""
    requests: RequestLimits = RequestLimits()
    """How large a request may be, besides `max_body_bytes`."""
    grammars: GrammarLimits = GrammarLimits()
    """What a request may demand of its answer's form, so that none takes the engine's memory and time."""
    connections: ConnectionLimits = ConnectionLimits()
    """What a client may send on a connection before its request is handled, and how slowly."""
    ssl_certfile: Path | None = None
    """PEM file of the server's TLS certificate, with its chain; None for plain HTTP. It is read again when it changes,
    for new connections."""
    ssl_keyfile: Path | None = None
    """PEM file of the key of `ssl_certfile`, without a password; None if that file contains the key, too."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins of web pages that may use the API from a browser, such as `https://chat.example.com`; `*` for all."""
    share_prefix_cache: bool = False
    """Whether projects share cached prompts. A quick answer tells that somebody's prompt begins in the same way, so by
    default each project has its own: common beginnings of prompts are computed once per project."""
    log: LogSettings = LogSettings()
    """What is logged on standard error, and in which format."""
    drain_seconds: NonNegativeFloat = 20.0
    """Seconds that open requests may take after SIGTERM."""
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    """Maximum size of a request body in bytes; uploads of adapters and training files have limits of their own."""
    metering: bool = True
    """Whether requests are counted, charged and recorded; off only to measure the overhead."""
    prices: Prices = Prices()
    """The price list, in US dollars, until others are set at run time (`loramux prices set`)."""
    calibration_idle_seconds: NonNegativeFloat = 60.0
    """Seconds without requests after which the weights of prompt and answer tokens are measured, once; 0 for never."""
    training: TrainingSettings = TrainingSettings()
    """Where and how fine-tuning jobs train."""
    organization: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")] = "local"
    """Part of the names of fine-tuned models: ft:BASE:ORGANIZATION:SUFFIX:ID."""
    result_encoding: Literal["plain", "base64"] = "plain"
    """How `GET /v1/files/ID/content` sends the result files of jobs: as they are, or in Base64 as OpenAI does, for
    scripts that decode it. A request can choose by `?encoding=`."""
    webhooks: tuple[WebhookSettings, ...] = ()
    """Where a signed message is posted when a job has succeeded, failed or was cancelled: each with a `url`, a `secret`
    and, if not all, the `events`. In the environment as JSON."""
    judge_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """OpenAI-compatible server of the judges of experiments; None if models of this server judge."""
    judge_api_key: SecretStr | None = None
    """API key for `judge_url`."""
    traces_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """OTLP/HTTP endpoint for OpenTelemetry traces, such as http://127.0.0.1:4318/v1/traces; None for no traces."""
    usage_flush_seconds: PositiveFloat = 1.0
    """Seconds between writes of usage records, the most that a crash can lose."""
    usage_record_days: PositiveFloat = 30.0
    """Days that per-request records are kept."""
    usage_rollup_days: PositiveFloat = 400.0
    """Days that hourly rollups are kept."""

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the constructor's arguments."""
        return (sources["init_settings"],)

    @field_validator("allowed_roots", "allowed_urls", "api_keys", "cors_origins", mode="before")
    @classmethod
    def _parse_list(cls, value: object) -> object:
        """Parse the list of an environment variable: JSON, or separated by commas."""
        if isinstance(value, str):
            value = json.loads(value) if value.startswith("[") else [item.strip() for item in value.split(",")]
        if isinstance(value, list) and "" in value:
            raise ValueError("an item is empty")  # as a path, it would be the working folder
        return value

    @field_validator("allowed_urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse prefixes that no URL of an object store can have."""
        for url in urls:
            split_url(url)
        return urls

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what no browser sends as an origin."""
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{printable(origin)!r} is no origin: expected a scheme and a host, such as https://chat.example.com"
                )
        return origins

    @field_validator("aliases")
    @classmethod
    def _check_aliases(cls, aliases: dict[str, str]) -> dict[str, str]:
        """Refuse names that no alias can have, and aliases of aliases."""
        for name, target in aliases.items():
            try:
                parse_adapter_name(name)
            except InvalidAdapterName as error:
                raise ValueError(f"the alias {printable(name)!r} is invalid: {error.message}") from error
            if not target:
                raise ValueError(f"the alias {name} needs the name of a model")
            if target.partition("@")[0] in aliases:
                raise ValueError(f"the alias {name} points at {printable(target)}, an alias itself: use its target")
        return aliases

    @field_validator("webhooks")
    @classmethod
    def _check_webhooks(cls, webhooks: tuple[WebhookSettings, ...]) -> tuple[WebhookSettings, ...]:
        """Refuse two webhooks of one URL, whose messages could not be told apart."""
        if len({webhook.id for webhook in webhooks}) < len(webhooks):
            raise ValueError("two webhooks have the same url: name all its events in one")
        return webhooks

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Refuse keys that can't be sent in a header."""
        if not all(_API_KEY.fullmatch(key.get_secret_value()) for key in keys):
            raise ValueError("a key must consist of printable ASCII characters without spaces")
        return keys

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("ssl_keyfile is set without ssl_certfile: set both")
        return self

    @model_validator(mode="after")
    def _require_keys(self) -> Self:
        if not self.api_keys and "*" in self.cors_origins:
            raise ValueError(
                "cors_origins is *, with which every web page could use a server without keys: set api_keys"
            )
        if not self.api_keys and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines: set LORAMUX_API_KEYS, or listen on 127.0.0.1"
            )
        return self


def _examples() -> dict[str, Path]:
    configs = sorted(EXAMPLES_FOLDER.glob("*/adapter_config.json"))
    return {config.parent.name: config.parent for config in configs}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
