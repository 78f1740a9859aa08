"""Whether an adapter was trained with the tokenizer of its base; with another one, its answers would be wrong."""

import filecmp
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loramux_adapters.errors import InvalidAdapter, printable
from loramux_adapters.intake.chat.companions import (
    ADDED_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Companions,
)

_COMMAND = (sys.executable, "-I", "-m", "loramux_adapters.intake.chat.tokenizer_process")
_MAX_WALL_SECONDS = 120
_MAX_NAMED = 5
_MAX_DIGITS = 9


def check_added_tokens(own: Companions, vocabulary: Mapping[str, int]) -> list[str]:
    """Return notes on the tokens that the adapter's configuration adds to the base's `vocabulary`.

    Raises:
        InvalidAdapter: it adds tokens that its prompts or answers could contain.
        OSError: a file can't be read.
    """
    added = own.added_tokens | _declared_tokens(own.tokenizer_config)
    where = ADDED_TOKENS_FILE if own.has(ADDED_TOKENS_FILE) else TOKENIZER_CONFIG_FILE
    moved = sorted(token for token, number in added.items() if vocabulary.get(token) not in (None, number))
    if moved:
        raise _renumbered(where, moved[0])
    return _check_new_tokens(own, sorted(added.keys() - vocabulary.keys()), where)


def check_tokenizer(own: Companions, base_tokenizer: Path) -> list[str]:
    """Return notes on the differences of the adapter's tokenizer from the base's, if it has one.

    Raises:
        InvalidAdapter: it has other tokens, or can't be read.
        OSError: a file can't be read.
    """
    file = own.folder / TOKENIZER_FILE
    if not file.exists() or not base_tokenizer.is_file() or filecmp.cmp(file, base_tokenizer, shallow=False):
        return []
    found = _compare(base_tokenizer, file)
    if found["is_renumbered"] or found["lacks"]:
        raise _renumbered(TOKENIZER_FILE, None)
    notes = _check_new_tokens(own, found["new"], TOKENIZER_FILE)
    if not found["splits_alike"]:
        notes.append(
            f"{TOKENIZER_FILE}: splits texts into other tokens than the base's tokenizer, which is used instead"
        )
    return notes


def _check_new_tokens(own: Companions, new: list[str], where: str) -> list[str]:
    """Refuse tokens that the base does not have; but padding is never a part of a prompt or an answer."""
    if not new:
        return []
    named = ", ".join(repr(printable(token)) for token in new[:_MAX_NAMED]) + (
        f" and {len(new) - _MAX_NAMED} more" if new[_MAX_NAMED:] else ""
    )
    if new == [own.special_tokens.get("pad_token")]:
        return [
            f"{where}: adds the padding token {named} to the base's tokens; it is ignored, as prompts never contain it"
        ]
    raise InvalidAdapter(
        "adds tokens that the base does not have: serve a base with them, or remove the tokenizer's files if the "
        "adapter was trained without them",
        where=where,
        found=named,
    )


def _renumbered(where: str, token: str | None) -> InvalidAdapter:
    return InvalidAdapter(
        "has another vocabulary than the base: serve the base that the adapter was trained on, or remove the "
        "tokenizer's files if they are not of this adapter",
        where=where,
        found=token,
    )


def _declared_tokens(config: Mapping[str, Any]) -> dict[str, int]:
    declared = config.get("added_tokens_decoder")
    if not isinstance(declared, dict):
        return {}
    return {
        str(token["content"]): int(number)
        for number, token in declared.items()
        if isinstance(token, dict) and "content" in token and number.isdecimal() and len(number) <= _MAX_DIGITS
    }


def _compare(base: Path, own: Path) -> dict[str, Any]:
    command = [*_COMMAND, str(base.absolute()), str(own.absolute())]
    environment = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_MAX_WALL_SECONDS, check=True, cwd="/"
        )
        return dict(json.loads(done.stdout))
    except (subprocess.SubprocessError, ValueError) as error:
        raise InvalidAdapter(
            "is not a tokenizer that the library `tokenizers` can read: fix or remove it", where=TOKENIZER_FILE
        ) from error
