"""Keys of training files that mean nothing here: `null` values are dropped, and unknown keys with a warning."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

_MAX_NAMES = 10
_MAX_NAME_LENGTH = 60


class KeyFilter:
    """Drops unknown keys and null values from one line, and remembers the names of the unknown keys."""

    def __init__(self) -> None:
        self.ignored: set[str] = set()
        """Names such as `metadata` and `messages.id`, printable and of limited length."""

    def keep(self, value: Any, known: Collection[str], where: str = "") -> Any:
        """Return an object without null values and without the keys that are not in `known`; other values as they are.

        `where` is put before the names of ignored keys.
        """
        if not isinstance(value, dict):
            return value
        given = without_nulls(value)
        self.ignored.update(_printable(where + key) for key in given.keys() - set(known))
        return {key: item for key, item in given.items() if key in known}

    def keep_each(self, values: Iterable[Any], known: Collection[str], where: str) -> list[Any]:
        """Do the same with each value of a list."""
        return [self.keep(value, known, where) for value in values]


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its null values."""
    return {key: item for key, item in value.items() if item is not None}


class IgnoredKeys:
    """Counts the lines that have each ignored key."""

    def __init__(self) -> None:
        self._lines: Counter[str] = Counter()

    def add(self, names: Iterable[str]) -> None:
        """Count the ignored keys of one line."""
        for name in names:
            # A hostile file can have another key in each line.
            if name in self._lines or len(self._lines) < _MAX_NAMES:
                self._lines[name] += 1
            else:
                self._lines[""] += 1

    def warnings(self) -> list[str]:
        """Return one warning for each key."""
        named = [
            f"the key `{name}` is ignored (lines with it: {count:,})" for name, count in self._lines.items() if name
        ]
        return [*named, "further unknown keys are ignored"] if "" in self._lines else named


def _printable(name: str) -> str:
    shown = "".join(character if character.isprintable() and character != "`" else "?" for character in name)
    return shown if len(shown) <= _MAX_NAME_LENGTH else shown[: _MAX_NAME_LENGTH - 3] + "..."
