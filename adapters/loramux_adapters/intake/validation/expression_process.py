"""Evaluates regular expressions with `re`, as PEFT does; a program of its own, so that it can be stopped.

It reads a JSON object with `expressions` (pairs of a method, `match` or `fullmatch`, and an expression) and `names`
from its standard input, and writes the result of `evaluate` as JSON. It needs nothing but the standard library.
"""

import contextlib
import json
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_CPU_SECONDS = 1
MAX_MEMORY_BYTES = 512 << 20


def evaluate(expressions: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[list[Any]] | None]:
    """Return the matching names of each expression, as pairs of position and text of the group `idx`, if any.

    The result is None for an expression that is malformed.
    """
    return [_matching(method, expression, names) for method, expression in expressions]


def _matching(method: str, expression: str, names: Sequence[str]) -> list[list[Any]] | None:
    try:
        match = getattr(re.compile(expression), method)
    except (re.error, RecursionError, OverflowError):
        return None
    found = ((position, match(name)) for position, name in enumerate(names))
    return [[position, each.groupdict().get("idx")] for position, each in found if each]


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # if memory runs out, this process ends, and not the server
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    question = json.load(sys.stdin)
    json.dump(evaluate(question["expressions"], question["names"]), sys.stdout)


if __name__ == "__main__":
    _main()
