"""Errors in the settings, one line per problem."""

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from loramux_server.errors import CannotStart
from loramux_server.settings.schema import Settings


class SettingsError(CannotStart):
    """Invalid settings; one line per problem."""


def describe(error: ValidationError) -> Iterable[str]:
    """Return one line per problem, without the values, which may be secrets."""
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield unknown_setting(where, where, list(_setting_names(Settings)))
        elif problem["type"] != "default_factory_not_called":  # a consequence of another problem
            yield f"{where or 'Settings'}: {problem['msg'].removeprefix('Value error, ')}"


def _setting_names(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Return the names of all settings, levels separated by dots."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _setting_names(field.annotation, f"{prefix}{name}.")


def unknown_setting(name: str, key: str, known: list[str]) -> str:
    """Return the message for an unknown setting, with the known one closest to `key`."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"Unknown setting {name}: did you mean {close[0]}?"
