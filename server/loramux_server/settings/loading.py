"""Reading the settings from a file, the environment and command-line options."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError as UnreadableVariable

from loramux_server.metering.pricing import Prices
from loramux_server.settings.deprecated import rename_keys, rename_variables
from loramux_server.settings.errors import SettingsError, describe, unknown_setting
from loramux_server.settings.schema import PREFIX, Settings, TrainingSettings

DEFAULT_FILE = Path("loramux.yaml")
# Read by the setup script, by `load_settings` itself, and by the commands that talk to a server.
_NOT_SETTINGS = frozenset(
    {
        "LORAMUX_BACKEND",
        "LORAMUX_CONFIG",
        "LORAMUX_CLI_URL",
        "LORAMUX_CLI_API_KEY",
        "LORAMUX_JUDGE_API_KEY",
        "LORAMUX_ARM_API_KEYS",
    }
)


def load_settings(
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings of the file, overridden by `environ`, overridden by the `overrides` that are not None.

    Without `config_file`, the file is the one in LORAMUX_CONFIG, else `loramux.yaml` if it exists.

    Raises:
        SettingsError: an unknown key, an invalid value, an unreadable file, or no API keys on a public address.

    """
    if config_file is None and environ.get("LORAMUX_CONFIG"):
        config_file = Path(environ["LORAMUX_CONFIG"])
    if config_file is None and DEFAULT_FILE.exists():
        config_file = DEFAULT_FILE
    from_file = {} if config_file is None else _read_file(config_file)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**_merge(*map(rename_keys, (from_file, _read_environ(environ), given))))
    except ValidationError as error:
        raise SettingsError("\n".join(describe(error))) from None  # the cause would show values, API keys among them


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise SettingsError(f"{path} must be a mapping of settings, `key: value`.")
    return {str(key): value for key, value in (content or {}).items()}


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    variables = rename_variables(
        {name: value for name, value in environ.items() if name.upper().startswith(PREFIX) and value}
    )
    unknown = [name for name in variables if not _is_setting(name.upper())]
    if unknown:
        known = [PREFIX + field.upper() for field in Settings.model_fields]
        raise SettingsError(
            "\n".join(unknown_setting(name, name.upper().partition("__")[0], known) for name in unknown)
        )
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in variables.items()}
    try:
        settings = source()
    except UnreadableVariable as error:
        raise SettingsError(f"The environment can't be read: {error}.") from error
    return settings | ({"engine": _parse_json(settings["engine"])} if "engine" in settings else {})


def _is_setting(name: str) -> bool:
    """Whether an environment variable names a field, or a key in a field that is a mapping."""
    head, nested, _ = name.removeprefix(PREFIX).lower().partition("__")
    field = Settings.model_fields.get(head)
    if field is None:
        return name in _NOT_SETTINGS
    return not nested or get_origin(field.annotation) is dict or field.annotation in {Prices, TrainingSettings}


def _parse_json(value: Any) -> Any:
    """Parse strings that are JSON; others, such as `auto`, stay strings."""
    if isinstance(value, dict):
        return {key: _parse_json(item) for key, item in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers, later ones over earlier ones; nested mappings are merged, not replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            lower = merged.get(key)
            merged[key] = _merge(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else value
    return merged
