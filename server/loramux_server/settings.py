"""The settings, read once and handed on; nothing else looks at the environment."""

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as UnreadableVariable

import loramux_adapters
from loramux_adapters.intake.sources.urls import split_url
from loramux_server.errors import CannotStart
from loramux_server.metering.pricing import Prices

PREFIX = "LORAMUX_"
DEFAULT_FILE = Path("loramux.yaml")
EXAMPLES = Path(loramux_adapters.__file__).parent / "examples"
"""The demo's adapters, which come with the package."""
# Read by the set-up script, by `load_settings` itself, and by the commands that talk to a server.
_NOT_SETTINGS = frozenset(
    {"LORAMUX_BACKEND", "LORAMUX_CONFIG", "LORAMUX_CLI_URL", "LORAMUX_CLI_API_KEY", "LORAMUX_JUDGE_API_KEY"}
)
_API_KEY = re.compile(r"[!-~]+")


class Training(BaseModel):
    """Where and how fine-tuning jobs are trained.

    `device` is the CPU or a GPU of torch's (cuda:1); the trainer gets of a shared CPU what is left over (idle), a tenth
    (low) or half (equal). `queue` is how many jobs may wait; `save_seconds` how much training a kill may cost;
    `trial_questions` how many of a validation file's answers are asked of base and adapter when a job is done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    priority: Literal["idle", "low", "equal"] = "idle"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    queue: Annotated[int, Field(ge=1, le=100_000)] = 100  # each waits at first, so with 0 none could be made
    save_seconds: PositiveFloat = 30.0
    trial_questions: Annotated[int, Field(ge=0, le=10_000)] = 100


class SettingsError(CannotStart):
    """Settings that the server can't start with; one line for each thing that is wrong."""


class Settings(BaseSettings):
    """How this server is set up; made by `load_settings`, reads nothing by itself.

    `engine` holds vLLM's own argument names and is passed on. Paths may be relative to the working folder.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Path(".loramux")
    base: str = Field(default="demo", min_length=1)
    base_revision: str | None = None
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['data_dir']}/loramux.sqlite3",
        repr=False,  # it may hold a password
    )
    engine: dict[str, Any] = {}
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda data: (Path("my-adapters"), Path("adapters"), data["data_dir"])
    )
    allowed_urls: Annotated[tuple[str, ...], NoDecode] = ("s3://", "gs://", "az://", "abfs://")
    """Where adapters may be fetched from by URL: each of these and what is below it."""
    adapters: dict[str, Path] = Field(default_factory=lambda data: _examples() if data["base"] == "demo" else {})
    """Names and folders that are registered at start; the demo has its examples."""
    proof: bool = True
    """Whether a version must show on the engine that it has an effect before it serves."""
    base_mismatch: Literal["warn", "refuse"] = "warn"
    """What becomes of an adapter whose config names another base; `warn`, because people rename folders."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    drain_seconds: NonNegativeFloat = 20.0
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    metering: bool = True
    """Whether requests are counted, charged and recorded; off, it shows what that costs."""
    prices: Prices = Prices()
    training: Training = Training()
    organization: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")] = "local"
    """What stands in the names of fine-tuned models: ft:BASE:ORGANIZATION:SUFFIX:ID."""
    traces_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Where OpenTelemetry's traces go over HTTP, such as http://127.0.0.1:4318/v1/traces; nowhere if it is not set."""
    usage_flush_seconds: PositiveFloat = 1.0
    """How much of the usage records a crash may cost, at most."""
    usage_record_days: PositiveFloat = 30.0
    usage_sum_days: PositiveFloat = 400.0
    """How long each request's record is kept, and how long the sums of each hour."""

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take nothing but what the constructor is given."""
        return (sources["init_settings"],)

    @field_validator("allowed_roots", "allowed_urls", "api_keys", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Read a list as an environment variable writes it: JSON, or separated by commas."""
        if isinstance(value, str):
            value = json.loads(value) if value.startswith("[") else [item.strip() for item in value.split(",")]
        if isinstance(value, list) and "" in value:
            raise ValueError("an item is empty")  # as a path it would mean the working folder
        return value

    @field_validator("allowed_urls")
    @classmethod
    def _fetchable(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what no URL of a store elsewhere could lie in."""
        for url in urls:
            split_url(url)
        return urls

    @field_validator("api_keys")
    @classmethod
    def _sendable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Refuse what no client could put in a header."""
        if not all(_API_KEY.fullmatch(key.get_secret_value()) for key in keys):
            raise ValueError("a key is made of printable ASCII characters without spaces")
        return keys

    @model_validator(mode="after")
    def _closed_to_others(self) -> Self:
        if not self.api_keys and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by others, so set LORAMUX_API_KEYS: "
                "without a key the server is open, and listens on 127.0.0.1 only"
            )
        return self


def _examples() -> dict[str, Path]:
    configs = sorted(EXAMPLES.glob("*/adapter_config.json"))
    return {config.parent.name: config.parent for config in configs}


def load_settings(
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings of the file, overridden by `environ`, and that by the `overrides` that are not None.

    Without `config_file` it is the one that LORAMUX_CONFIG names, else `loramux.yaml` if there is one.

    Raises:
        SettingsError: an unknown key, an unfit value, an unreadable file, or a server that would be open to others.

    """
    if config_file is None and environ.get("LORAMUX_CONFIG"):
        config_file = Path(environ["LORAMUX_CONFIG"])
    if config_file is None and DEFAULT_FILE.exists():
        config_file = DEFAULT_FILE
    from_file = {} if config_file is None else _read_file(config_file)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**_merge(from_file, _read_environ(environ), given))
    except ValidationError as error:
        raise SettingsError("\n".join(_lines(error))) from None  # the cause would show values, keys among them


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise SettingsError(f"{path} must hold settings, each as `key: value`.")
    return {str(key): value for key, value in (content or {}).items()}


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    variables = {name: value for name, value in environ.items() if name.upper().startswith(PREFIX) and value}
    unknown = [name for name in variables if not _is_setting(name.upper())]
    if unknown:
        known = [PREFIX + field.upper() for field in Settings.model_fields]
        raise SettingsError("\n".join(_unknown(name, name.upper().partition("__")[0], known) for name in unknown))
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in variables.items()}
    try:
        settings = source()
    except UnreadableVariable as error:
        raise SettingsError(f"The environment can't be read: {error}.") from error
    return settings | ({"engine": _decoded(settings["engine"])} if "engine" in settings else {})


def _is_setting(name: str) -> bool:
    """Whether an environment variable sets something: a field, or a key in a field that is a mapping."""
    head, nested, _ = name.removeprefix(PREFIX).lower().partition("__")
    field = Settings.model_fields.get(head)
    if field is None:
        return name in _NOT_SETTINGS
    return not nested or get_origin(field.annotation) is dict or field.annotation in {Prices, Training}


def _decoded(value: Any) -> Any:
    """Read texts that are JSON as what they mean; a name such as `auto` stays a text."""
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layers as one, later ones over earlier; mappings in them are merged, not replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _lines(error: ValidationError) -> Iterable[str]:
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield _unknown(where, where, list(_names(Settings)))
        elif problem["type"] != "default_factory_not_called":  # it only follows from another problem
            yield f"{where or 'Settings'}: {problem['msg'].removeprefix('Value error, ')}"


def _names(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every setting's name, with dots between the levels."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}.")


def _unknown(shown: str, key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"Unknown setting {shown}: did you mean {close[0]}?"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def export_engine_environment(settings: Settings, suited: Mapping[str, str]) -> Path:
    """Set what vLLM takes from the environment alone, before it is imported; return the file that it will log to.

    `suited` is what suits the machine. What the user set stays, except that adapters may enter through loramux only.
    """
    folder = settings.data_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log, log_config = folder / "engine.log", folder / "logging.json"
    handler = {"class": "logging.FileHandler", "filename": str(log.resolve()), "formatter": "plain"}
    log_config.write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}},
                "handlers": {"file": handler},
                "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
            }
        )
    )
    wishes = {
        "VLLM_LOGGING_CONFIG_PATH": str(log_config.resolve()),
        "VLLM_NO_USAGE_STATS": "1",
        # By it an adapter that computes garbage is noticed. It costs a small model 1 to 2 % of its time.
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # A second series for each, that says when it began, which nobody asks for.
        "PROMETHEUS_DISABLE_CREATED_SERIES": "1",
        # Warnings for vLLM's developers, not for those who start a server.
        "PYTHONWARNINGS": "ignore",
        "TORCH_LOGS": "-all",
    }
    for name, value in {**wishes, **suited}.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"
    return log
