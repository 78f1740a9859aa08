"""Strict JSON, which all parsers read the same way: UTF-8, no duplicate keys, no NaN."""

import json
from typing import Any, NoReturn

from loramux_adapters.errors import InvalidAdapter


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Parse the JSON object in `raw`, whose size the caller has limited.

    Raises:
        InvalidAdapter: it is not a JSON object, has a duplicate key, or contains NaN, infinity or half of a character.
    """
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        if b"\\u" in raw:  # only an escape can be half of a character, which no file can contain
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"not valid JSON: {error}", where=where) from error
    if not isinstance(value, dict):
        raise InvalidAdapter("not a JSON object", where=where)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {duplicate!r}")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
