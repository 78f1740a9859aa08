"""Compares what our code uses of vLLM with a version of it."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.check_vllm.calls import signature
from tools.check_vllm.declared import DECLARED
from tools.check_vllm.imports import Alternatives, Use, candidates
from tools.check_vllm.signatures import misfit, of_function, override_misfit, without_first
from tools.check_vllm.sources import Sources
from tools.check_vllm.uses import uses_of

FOLDERS = ("server", "adapters", "loadtests", "tests")
ENGINE = "server/loramux_server/engine"
MISSING = "is not there"
ENVIRONMENT = re.compile(r"VLLM_[A-Z0-9_]+")


@dataclass(frozen=True)
class Break:
    """A use that does not work with this version."""

    where: str
    target: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.target} {self.problem}"


def all_uses(root: Path, declared: Mapping[str, str] = DECLARED) -> list[Use | Alternatives]:
    """Return everything that the project in the folder `root` uses of vLLM."""
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    compat = root / ENGINE / "vllm_compat.py"
    several = candidates(ast.parse(compat.read_text(encoding="utf-8")).body) if compat.is_file() else {}
    visible = [use for path in files for use in uses_of(path, str(path.relative_to(root)), several)]
    return [*visible, *declared_uses(declared, _first_lines(root))]


def declared_uses(declared: Mapping[str, str], lines: Mapping[str, str]) -> Iterator[Use]:
    """Yield the entries of the table; `lines` has the place in our code of each attribute."""
    for owner, entries in declared.items():
        for entry in re.findall(r"\w+(?:\([^)]*\))?", entries):
            node = ast.parse(entry, mode="eval").body
            call = node if isinstance(node, ast.Call) else None
            name = entry.partition("(")[0]
            where = lines.get(name, "tools/check_vllm/declared.py")
            yield Use(where, f"{owner}.{name}", call=call, is_bound=True, is_declared=True)


def _first_lines(root: Path) -> dict[str, str]:
    """Return the place of the first use of each attribute in the code that may reach into vLLM."""
    found: dict[str, str] = {}
    for path in sorted((root / ENGINE).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.setdefault(node.attr, f"{path.relative_to(root)}:{node.lineno}")
    return found


def breaks(sources: Sources, uses: Iterable[Use | Alternatives]) -> list[Break]:
    """Return the uses that do not work with these sources of vLLM, each once."""
    return list(dict.fromkeys(problem for use in uses for problem in _breaks(sources, use)))


def _breaks(sources: Sources, use: Use | Alternatives) -> list[Break]:
    if isinstance(use, Alternatives):
        branches = [breaks(sources, branch) for branch in use.branches]
        # The branch for this version is the one with most names.
        return min(branches, key=lambda branch: sum(each.problem == MISSING for each in branch) + bool(branch))
    problem = _problem(sources, use)
    return [Break(use.where, use.target, problem)] if problem else []


def _problem(sources: Sources, use: Use) -> str | None:
    found = sources.find(use.target)
    if found is None:
        return None if use.may_be_ours else MISSING
    if use.call is not None and (found.module or use.is_declared):
        theirs = signature(sources, found, is_bound=use.is_bound)
        if reason := misfit(theirs, use.call, named=use.is_declared):
            return f"does not take our arguments: {reason}"
    if use.override is not None and found.function is not None:
        theirs, ours = of_function(found.function), of_function(use.override)
        if use.is_bound and not sources.path(use.target.rpartition(".")[0]):
            theirs, ours = without_first(theirs), without_first(ours)
        if reason := override_misfit(theirs, ours):
            return f"can't be replaced by our {use.override.name}: {reason}"
    return None


def environment_breaks(sources: Sources, root: Path) -> list[Break]:
    """Return the environment variables of vLLM that our code sets or reads, and that this version does not know."""
    envs = sources.path("vllm.envs")
    known = set(ENVIRONMENT.findall(envs.read_text(encoding="utf-8"))) if envs else set()
    found = []
    for path in (path for folder in FOLDERS if folder != "tests" for path in sorted((root / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(name)) if ENVIRONMENT.fullmatch(name) and name not in known:
                    found.append(Break(f"{path.relative_to(root)}:{node.lineno}", name, MISSING))
    return found
