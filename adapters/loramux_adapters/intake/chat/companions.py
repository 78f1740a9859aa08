"""The files next to an adapter's weights from which its chat template and its tokenizer are read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import TEMPLATE_FILE, open_regular
from loramux_adapters.intake.validation.strict_json import parse_object

PROCESSOR_TEMPLATE_FILE = "chat_template.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_FILE = "tokenizer.json"

MAX_TEMPLATE_BYTES = 1 << 17  # six times the longest template of a known model
MAX_TOKEN_CHARACTERS = 200
COMPANION_LIMITS = {
    TEMPLATE_FILE: MAX_TEMPLATE_BYTES,
    PROCESSOR_TEMPLATE_FILE: 2 * MAX_TEMPLATE_BYTES,
    TOKENIZER_CONFIG_FILE: 2 << 20,  # Gemma 3's, with 6,000 added tokens, has 1.2 MB
    ADDED_TOKENS_FILE: 1 << 20,
    TOKENIZER_FILE: 1 << 26,
}
"""Maximum sizes in bytes, by name; each of these files may be missing."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Companions:
    """The companions in a folder; each is read and parsed at most once.

    Its properties and methods raise InvalidAdapter if a file is malformed, and OSError if it can't be read.
    """

    folder: Path

    def has(self, name: str) -> bool:
        """Whether there is a file `name`."""
        return (self.folder / name).exists()

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json, empty if it is missing."""
        return self._read_object(TOKENIZER_CONFIG_FILE)

    @cached_property
    def added_tokens(self) -> dict[str, Any]:
        """The content of added_tokens.json, empty if it is missing: numbers of tokens."""
        return self._read_object(ADDED_TOKENS_FILE)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens of the tokenizer, such as `eos_token`, by name."""
        values = {name: self.tokenizer_config.get(name) for name in SPECIAL_TOKENS}
        contents = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
        tokens = {name: value for name, value in contents.items() if isinstance(value, str)}
        for name, token in tokens.items():
            if len(token) > MAX_TOKEN_CHARACTERS:
                raise InvalidAdapter(
                    f"{name} is too long",
                    where=TOKENIZER_CONFIG_FILE,
                    expected=f"at most {MAX_TOKEN_CHARACTERS} characters",
                )
        return tokens

    def template(self) -> tuple[str | None, tuple[str, ...]]:
        """Return the text of the chat template, None if there is none, and the names of other templates.

        transformers writes it to a file of its own; older releases write it into one for multimodal bases, or into the
        tokenizer's configuration, as a text or as a list of named ones.
        """
        if self.has(TEMPLATE_FILE):
            return self._decode_template(), ()
        where = PROCESSOR_TEMPLATE_FILE if self.has(PROCESSOR_TEMPLATE_FILE) else TOKENIZER_CONFIG_FILE
        content = self.tokenizer_config if where == TOKENIZER_CONFIG_FILE else self._read_object(where)
        text, others = _default_template(content.get("chat_template"), where)
        if text is not None and len(text.encode()) > MAX_TEMPLATE_BYTES:
            raise InvalidAdapter(
                "chat_template is too long", where=where, expected=f"at most {MAX_TEMPLATE_BYTES} bytes"
            )
        return text, others

    def _decode_template(self) -> str:
        try:
            return self._read(TEMPLATE_FILE).decode()
        except UnicodeDecodeError as error:
            raise InvalidAdapter("is not UTF-8", where=TEMPLATE_FILE) from error

    def _read_object(self, name: str) -> dict[str, Any]:
        return parse_object(self._read(name), name) if self.has(name) else {}

    def _read(self, name: str) -> bytes:
        limit = COMPANION_LIMITS[name]
        with open_regular(self.folder / name) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise InvalidAdapter("the file is too large", where=name, expected=f"at most {limit} bytes")
        return content


def _default_template(value: object, where: str) -> tuple[str | None, tuple[str, ...]]:
    if value is None or isinstance(value, str):
        return value, ()
    try:
        named = {str(template["name"]): str(template["template"]) for template in value}  # type: ignore[attr-defined]
    except (TypeError, KeyError) as error:
        raise InvalidAdapter("chat_template is neither a text nor a list", where=where) from error
    return named.get("default"), tuple(sorted(named.keys() - {"default"}))
