"""Regular expressions of adapter configs, read as PEFT reads them.

They come from untrusted files: to compile or to match one may take hours or all memory, and nothing can interrupt `re`
inside a process. Those that are not plain names are therefore evaluated in a process with limits of its own. (The
library `regex` has a timeout, but not for compiling: `(?:(?:a?){65535}){65535}x` takes it all memory.)
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation import expression_process
from loramux_adapters.intake.validation.expression_process import MAX_CPU_SECONDS

MAX_WALL_SECONDS = 30
"""The limit on a machine so busy that MAX_CPU_SECONDS take that long."""
# Of such characters, only the dot means anything in an expression; no such expression takes long.
_PLAIN = re.compile(r"[\w.-]*")
_MAX_MATCHES = 200_000


Answers = list[list[list[Any]] | None]
"""What expression_process.evaluate returns."""


class Expression(NamedTuple):
    """An expression `text` in the config's `key`, and the complete one that PEFT makes of it."""

    key: str
    text: str
    method: Literal["match", "fullmatch"]
    complete: str
    is_end: bool = False
    """Whether it matches names and their ends after a dot."""


def is_plain(text: str) -> bool:
    """Whether `text` is a name, and not an expression with more than one meaning."""
    return _PLAIN.fullmatch(text) is not None


def whole_name(key: str, text: str) -> Expression:
    """Return the expression of `target_modules` and `exclude_modules`: it matches whole names."""
    return Expression(key, text, "fullmatch", text)


def end_of_name(key: str, text: str) -> Expression:
    """Return the expression of `rank_pattern` and `alpha_pattern`: it matches names and their ends after a dot."""
    return Expression(key, text, "match", rf"(.*\.)?({text})$", is_end=True)


def layer_number(key: str, text: str) -> Expression:
    """Return the expression of `layers_pattern`: its group `idx` is the layer's number."""
    return Expression(key, text, "match", rf"(?:^|.*?\.){text}\.(?P<idx>\d+)\.")


def ends(name: str) -> Iterator[str]:
    """Yield `name`, and its ends after each dot."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def matching_names(expressions: Sequence[Expression], names: Sequence[str]) -> list[Mapping[str, str | None]]:
    """Return for each expression the names that match it, with the text of its group `idx`, if there is one.

    Raises:
        InvalidAdapter: an expression is malformed, or evaluating them takes too much time or memory.
    """
    found = _by_end(expressions, names)
    others = [each for each in expressions if each not in found]
    is_harmless = len(others) * len(names) <= _MAX_MATCHES and all(is_plain(each.text) for each in others)
    answers = (_evaluate if is_harmless else _evaluate_in_process)(others, names) if others else []
    for expression, answer in zip(others, answers, strict=True):
        if answer is None:
            raise InvalidAdapter(f"{expression.key}: not a regular expression that PEFT can evaluate",
                                 where=CONFIG_FILE, found=expression.text)  # fmt: skip
        found[expression] = {names[position]: group for position, group in answer}
    return [found[expression] for expression in expressions]


def _by_end(expressions: Sequence[Expression], names: Sequence[str]) -> dict[Expression, Mapping[str, str | None]]:
    """Return the answers for plain ends of names, most expressions of most files, without evaluating any.

    In an expression, a dot also means other characters. So those with a dot that no name ends with are left out.
    """
    by_end: dict[str, dict[str, str | None]] = {}
    for name in names:
        for end in ends(name):
            by_end.setdefault(end, {})[name] = None
    plain = [each for each in expressions if each.is_end and is_plain(each.text)]
    return {each: by_end.get(each.text, {}) for each in plain if each.text in by_end or "." not in each.text}


def _evaluate(expressions: Sequence[Expression], names: Sequence[str]) -> Answers:
    return expression_process.evaluate([(each.method, each.complete) for each in expressions], names)


def _evaluate_in_process(expressions: Sequence[Expression], names: Sequence[str]) -> Answers:
    question = {"expressions": [(each.method, each.complete) for each in expressions], "names": names}
    program = [sys.executable, "-I", "-S", "-W", "ignore", str(Path(expression_process.__file__))]
    try:
        done = subprocess.run(
            program,
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=MAX_WALL_SECONDS,
            check=True,
            env={},
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        first = next((each for each in expressions if not is_plain(each.text)), expressions[0])
        raise InvalidAdapter(
            f"{first.key}: its regular expressions take too much time or memory; name the modules instead",
            where=CONFIG_FILE,
            expected=f"at most {MAX_CPU_SECONDS} second",
            found=first.text,
        ) from error
    answers: Answers = json.loads(done.stdout)
    return answers
