"""What a file imports of vLLM; and the uses of vLLM's names in general."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from tools.check_vllm.signatures import Function
from tools.check_vllm.sources import PACKAGE


@dataclass(frozen=True)
class Use:
    """A use of one name of vLLM."""

    where: str
    """File and line."""
    target: str
    """The dotted path of its module, and the names after it."""
    call: ast.Call | None = None
    override: Function | None = None
    """What replaces it: in a subclass, or by an assignment."""
    is_bound: bool = False
    """Whether `target` is a method of an instance, which is not passed."""
    may_be_ours: bool = False
    """Whether a method of a subclass may be one that vLLM does not have."""
    is_declared: bool = False
    """Whether it is from the table, where the arguments of `call` have the names of parameters."""


@dataclass(frozen=True)
class Alternatives:
    """Branches of a try of imports, one of which must be complete: for versions with other names."""

    branches: "tuple[tuple[Use | Alternatives, ...], ...]"


def imports(body: list[ast.stmt], name: str) -> Iterator[Use | Alternatives]:
    """Yield the imports of vLLM in the statements of a file that is called `name` in reports."""
    for node in body:
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(each.type or node) for each in node.handlers):
            branches = (node.body, *(handler.body for handler in node.handlers))
            yield Alternatives(tuple(tuple(imports(branch, name)) for branch in branches))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Use(f"{name}:{node.lineno}", target) for target, _ in targets(node))
        else:
            for part in ("body", "orelse", "finalbody"):
                inner = getattr(node, part, [])
                yield from imports(inner if isinstance(inner, list) else [], name)


def targets(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield what an import imports of vLLM, and the name that it binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] == PACKAGE:
                yield alias.name, alias.asname or PACKAGE
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE and not node.level:
        for alias in node.names:
            yield f"{node.module}.{alias.name}", alias.asname or alias.name


def aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield names for vLLM's in this module, without those that are imported in one of several ways."""
    alternative = {id(node) for each in ast.walk(tree) if isinstance(each, ast.Try) for node in ast.walk(each)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in alternative:
            for target, name in targets(node):
                yield name, PACKAGE if name == PACKAGE else target
