"""The reference of the settings, from their schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tools.docs.markdown import NOTICE, cell, code, table

from loramux_server.settings import Settings
from loramux_server.settings.deprecated import RENAMED

if TYPE_CHECKING:
    from collections.abc import Iterator

INTRODUCTION = """# Settings

A server reads `loramux.yaml` in its working folder (or the file that `LORAMUX_CONFIG` or `--config` names), then
environment variables, then the options of `loramux serve`; later sources override earlier ones. In the file, a setting
is its key, nested keys below each other. As an environment variable, it is the key in capitals after `LORAMUX_`, with
two underscores between the levels. Lists are JSON, or separated by commas. Unknown settings are refused at start.
"""


def settings_page() -> str:
    """Return the page that describes every setting."""
    schema = Settings.model_json_schema()
    rows = [list(row) for row in _rows(schema, schema["properties"], ())]
    renamed = [(code(old), code(new)) for old, new in RENAMED.items()]
    return "\n".join(
        [
            NOTICE,
            INTRODUCTION,
            table(["key, and variable", "type", "default", "description"], rows),
            "\n## Deprecated names\n",
            "These names still work, with a warning in the log.\n",
            table(["deprecated", "use"], renamed),
            "",
        ]
    )


def _rows(schema: dict[str, Any], properties: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in properties.items():
        levels = (*path, name)
        if nested := _nested(schema, field):
            yield from _rows(schema, nested, levels)
        else:
            variable = "LORAMUX_" + "__".join(levels).upper()
            described = field.get("description", "")
            names = f"{code('.'.join(levels))}<br>{code(variable)}"
            yield names, _type(schema, field), code(_default(field, levels)), described


def _nested(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of a setting that groups other settings; none for other settings."""
    reference = field.get("$ref")
    properties: dict[str, Any] = _referenced(schema, reference).get("properties", {}) if reference else {}
    return properties


def _referenced(schema: dict[str, Any], reference: str) -> dict[str, Any]:
    definition: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return definition


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """Return the type in words: `integer`, `list of path`, `warn or refuse`."""
    if "enum" in field:
        return " or ".join(code(str(value)) for value in field["enum"])
    if choices := field.get("anyOf"):
        # A decimal is a number or its text, without a difference for users.
        named = [_type(schema, choice) for choice in choices if choice.get("type") != "null"]
        return "number" if "number" in named else " or ".join(dict.fromkeys(named))
    if reference := field.get("$ref"):
        return ", ".join(code(name) for name in _referenced(schema, reference)["properties"])
    if field.get("type") == "array":
        return f"list of {_type(schema, field['items'])}"
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return "mapping" + (f" of names to {_type(schema, values)}" if isinstance(values, dict) else "")
    return str(field.get("format") if field.get("format") in ("path", "password") else field.get("type", "any"))


def _default(field: dict[str, Any], levels: tuple[str, ...]) -> str:
    """Return the default as it would be written; empty for null, and for what the description says."""
    if "default" in field:
        value = field["default"]
    elif len(levels) == 1 and levels[0] != "adapters":  # whose paths differ between installations
        value = Settings().model_dump(mode="json")[levels[0]]
    else:
        value = None
    if value in (None, [], {}):
        return ""
    return cell(value if isinstance(value, str) else json.dumps(value))
