"""What a file imports of vLLM, and uses of vLLM's names in general."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tools.check_vllm.sources import PACKAGE

COMPAT = "loramux_server.engine.vllm_compat"
"""Our module of the names that differ between versions."""


@dataclass(frozen=True)
class Use:
    """A use of one name of vLLM."""

    where: str
    """File and line."""
    target: str
    """The dotted path of its module, and the names after it."""
    call: ast.Call | None = None
    override: ast.FunctionDef | ast.AsyncFunctionDef | None = None
    """What replaces it: in a subclass, or by an assignment."""
    is_bound: bool = False
    """Whether `target` is a method of an instance, which is not passed."""
    may_be_ours: bool = False
    """Whether a method of a subclass may be one that vLLM does not have."""
    is_declared: bool = False
    """Whether it is from the table, where the arguments of `call` have the names of parameters."""


@dataclass(frozen=True)
class Alternatives:
    """Uses for different versions, in branches of which one must fit."""

    branches: "tuple[tuple[Use | Alternatives, ...], ...]"


def targets(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield what an import imports of vLLM, and the name that it binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] == PACKAGE:
                yield alias.name, alias.asname or PACKAGE
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE and not node.level:
        for alias in node.names:
            yield f"{node.module}.{alias.name}", alias.asname or alias.name


def branches(node: ast.Try) -> list[list[ast.stmt]]:
    """Return the branches of a try whose handlers import from elsewhere, none for another try."""
    is_for_imports = any("ImportError" in ast.unparse(each.type) for each in node.handlers if each.type)
    return [node.body, *(handler.body for handler in node.handlers)] if is_for_imports else []


def aliases(body: Iterable[ast.stmt]) -> dict[str, str]:
    """Return what names stand for in these statements, without those that are imported in several ways."""
    found: dict[str, str] = {}
    for node in _unconditional(body):
        for target, name in targets(node):
            found[name] = PACKAGE if name == PACKAGE else target
    return found


def candidates(body: Iterable[ast.stmt]) -> dict[str, tuple[str, ...]]:
    """Return what a name may stand for that is imported in several ways."""
    found: dict[str, tuple[str, ...]] = {}
    for node in body:
        for branch in branches(node) if isinstance(node, ast.Try) else []:
            for name, target in aliases(branch).items():
                found[name] = (*found.get(name, ()), target)
            for name, others in candidates(branch).items():
                found[name] = (*found.get(name, ()), *others)
    return found


def imported_from_compat(tree: ast.Module, of_compat: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return what the names may stand for that a file imports from our module of names that differ."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == COMPAT)
    names = [(alias.asname or alias.name, alias.name) for node in found for alias in node.names]
    return {bound: of_compat[name] for bound, name in names if name in of_compat}


def _unconditional(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.Try) and branches(node):
            continue
        for part in ("body", "orelse", "finalbody"):
            inner = getattr(node, part, [])
            yield from _unconditional(inner if isinstance(inner, list) else [])
