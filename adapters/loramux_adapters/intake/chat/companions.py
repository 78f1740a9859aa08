"""The files beside an adapter's weights from which its chat template and its tokenizer are read."""

import json
from pathlib import Path
from typing import Any

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import TEMPLATE_FILE, open_regular

PROCESSOR_TEMPLATE_FILE = "chat_template.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_FILE = "tokenizer.json"

MAX_TEMPLATE_BYTES = 1 << 17  # six times the longest template of a known model
COMPANION_LIMITS = {
    TEMPLATE_FILE: MAX_TEMPLATE_BYTES,
    PROCESSOR_TEMPLATE_FILE: 2 * MAX_TEMPLATE_BYTES,
    TOKENIZER_CONFIG_FILE: 1 << 22,
    ADDED_TOKENS_FILE: 1 << 22,
    TOKENIZER_FILE: 1 << 26,
}
"""Maximum sizes in bytes, by name; each of these files may be missing."""


def read_text(folder: Path, name: str) -> str | None:
    """Return the text of a companion, None if it is missing.

    Raises:
        InvalidAdapter: it is too large, not UTF-8, or not a regular file.
        OSError: it can't be read.
    """
    if not (folder / name).exists():
        return None
    limit = COMPANION_LIMITS[name]
    with open_regular(folder / name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidAdapter("the file is too large", where=name, expected=f"at most {limit} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidAdapter("is not UTF-8", where=name) from error


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a companion, an empty one if it is missing.

    Raises:
        InvalidAdapter: it is too large, or not a JSON object.
        OSError: it can't be read.
    """
    text = read_text(folder, name)
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter("is not JSON", where=name) from error
    if not isinstance(value, dict):
        raise InvalidAdapter("is not a JSON object", where=name)
    return value


def own_template(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the text of the adapter's chat template, None if it has none, and the names of its other templates.

    transformers writes it to a file of its own; older releases write it into one for multimodal bases, or into the
    tokenizer's configuration, as a text or as a list of named ones.

    Raises:
        InvalidAdapter: a file is malformed.
        OSError: a file can't be read.
    """
    text = read_text(folder, TEMPLATE_FILE)
    if text is not None:
        return text, ()
    where = PROCESSOR_TEMPLATE_FILE if (folder / PROCESSOR_TEMPLATE_FILE).exists() else TOKENIZER_CONFIG_FILE
    in_config = read_object(folder, where).get("chat_template")
    if in_config is None or isinstance(in_config, str):
        return in_config, ()
    try:
        named = {str(template["name"]): str(template["template"]) for template in in_config}
    except (TypeError, KeyError) as error:
        raise InvalidAdapter("chat_template is neither a text nor a list", where=where) from error
    return named.get("default"), tuple(sorted(named.keys() - {"default"}))
