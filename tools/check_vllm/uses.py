"""Finds what our code uses of vLLM, as far as syntax shows it: imports, and attributes and calls of imported names."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.check_vllm.imports import (
    Alternatives,
    Use,
    aliases,
    branches,
    candidates,
    imported_from_compat,
    targets,
)
from tools.check_vllm.signatures import Function


def uses_of(path: Path, name: str, of_compat: dict[str, tuple[str, ...]] | None = None) -> list[Use | Alternatives]:
    """Return the uses in one file, which is called `name` in reports.

    `of_compat` are the `candidates` of our module of names that differ between versions.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    several = candidates(tree.body) | imported_from_compat(tree, of_compat or {})
    visitor = _Visitor(name, aliases(tree.body), functions, several)
    visitor.visit(tree)
    return visitor.found


@dataclass
class _Visitor(ast.NodeVisitor):
    name: str
    aliases: Mapping[str, str]
    functions: Mapping[str, Function]
    several: Mapping[str, tuple[str, ...]]
    """What names may stand for that are imported in several ways."""
    found: list[Use | Alternatives] = field(default_factory=list)
    instances: Mapping[str, str] = field(default_factory=dict)
    """The vLLM classes of variables that are annotated with them, in the present function."""

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        """Note what is imported."""
        self.found.extend(Use(self._where(node), target) for target, _ in targets(node))

    visit_ImportFrom = visit_Import  # noqa: N815 - as above

    def visit_Try(self, node: ast.Try) -> None:
        """Note alternatives: in each branch, names stand for what it imports itself."""
        found = []
        for body in branches(node):
            inner = _Visitor(self.name, {**self.aliases, **aliases(body)}, self.functions, {})
            for statement in body:
                inner.visit(statement)
            found.append(tuple(inner.found))
        if found:
            self.found.append(Alternatives(tuple(found)))
        else:
            self.generic_visit(node)

    def _where(self, node: ast.expr | ast.stmt) -> str:
        return f"{self.name}:{node.lineno}"

    def _target(self, node: ast.expr) -> str | None:
        """Return the dotted path in vLLM that an expression stands for."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id) or self.instances.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := self._target(node.value)):
            return f"{owner}.{node.attr}"
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note an attribute of a name of vLLM."""
        if target := self._target(node):
            self.found.append(Use(self._where(node), target))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Note the arguments of a call."""
        if target := self._target(node.func):
            is_bound = _root(node.func) in self.instances
            self.found.append(Use(self._where(node), target, call=node, is_bound=is_bound))
        elif isinstance(node.func, ast.Name) and (several := self.several.get(node.func.id)):
            uses = (Use(self._where(node), target, call=node) for target in several)
            self.found.append(Alternatives(tuple((use,) for use in uses)))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Note the methods that replace those of a base class of vLLM; private ones may be our own."""
        for base in filter(None, map(self._target, node.bases)):
            for method in node.body:
                if isinstance(method, Function) and (not method.name.startswith("_") or method.name == "__init__"):
                    self.found.append(
                        Use(
                            self._where(method),
                            f"{base}.{method.name}",
                            override=method,
                            is_bound=True,
                            may_be_ours=True,
                        )
                    )
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Note which function replaces one of vLLM's."""
        made = ast.unparse(node.value)
        value = node.value.args[0] if isinstance(node.value, ast.Call) and len(node.value.args) == 1 else node.value
        function = self.functions.get(value.id) if isinstance(value, ast.Name) else None
        for each in node.targets:
            if isinstance(each, ast.Attribute) and function and (target := self._target(each)):
                self.found.append(Use(self._where(node), target, override=function, is_bound="static" not in made))
        self.generic_visit(node)

    def _visit_function(self, node: Function) -> None:
        outer = self.aliases, self.instances, self.several
        bound = _bound(node)
        known = {name: target for name, target in self.aliases.items() if name not in bound}
        self.instances = {
            **{name: target for name, target in self.instances.items() if name not in bound},
            **dict(self._annotated(node)),
        }
        self.aliases = known
        self.several = {name: targets for name, targets in self.several.items() if name not in bound}
        self.generic_visit(node)
        self.aliases, self.instances, self.several = outer

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815 - as above

    def _annotated(self, node: Function) -> Iterator[tuple[str, str]]:
        arguments = node.args
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            for part in _parts(each.annotation):
                if target := self._target(part):
                    yield each.arg, target


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _parts(annotation: ast.expr | None) -> Iterator[ast.expr]:
    """Yield the classes of a union."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            yield from _parts(left)
            yield from _parts(right)
        case ast.expr():
            yield annotation


def _bound(function: Function) -> set[str]:
    """Return the names that are variables in a function."""
    return {
        each.arg if isinstance(each, ast.arg) else each.id
        for each in ast.walk(function)
        if isinstance(each, ast.arg) or (isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    }
