"""JSON as two readers can't understand it differently: UTF-8, no key twice, no NaN."""

import json
from typing import Any, NoReturn

from loramux_adapters.errors import InvalidAdapter


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `raw`, which the caller has bounded; raises InvalidAdapter."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"not valid JSON: {error}", where=where) from error
    if not isinstance(value, dict):
        raise InvalidAdapter("not a JSON object", where=where)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands in it twice")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
