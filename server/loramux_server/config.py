"""The settings, read once and handed on; nothing else looks at the environment."""

import difflib
import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as UnreadableSettings
from yaml import YAMLError

PREFIX = "LORAMUX_"
# Read by the set-up script and by the command line before there are settings.
_NOT_SETTINGS = frozenset({"LORAMUX_CONFIG", "LORAMUX_BACKEND"})


class SettingsError(Exception):
    """Settings that the server can't start with; one line for each thing wrong."""


class Settings(BaseSettings):
    """How this server is set up.

    `engine` holds vLLM's own argument names, passed on as they are. Paths may be relative to the working folder.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Path(".loramux")
    base: str = "demo"
    base_revision: str | None = None
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['data_dir']}/loramux.sqlite3",
        repr=False,  # it may hold a password
    )
    engine: dict[str, Any] = {}
    allowed_roots: tuple[Path, ...] = Field(default_factory=lambda data: (Path("adapters"), data["data_dir"]))
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    drain_seconds: NonNegativeFloat = 20.0
    max_body_bytes: PositiveInt = 32 * 1024 * 1024


def load_settings(
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings of the file, overridden by those of `environ`, and these by `overrides`.

    Without `config_file` it is the one that LORAMUX_CONFIG names, else `loramux.yaml` if there is one.

    Raises:
        SettingsError: an unknown key, an unfit value, an unreadable file, or a server that would be open to others.

    """
    raise NotImplementedError
