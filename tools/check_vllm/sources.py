"""Reads vLLM's sources without importing them: what its modules define, the members of its classes, and signatures."""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.check_vllm.bindings import absolute, bound_names, import_target, statements
from tools.check_vllm.signatures import Function

PACKAGE = "vllm"
PYTHON = {*dir(type), "__file__", "__path__"}
"""What Python itself gives to classes and modules."""


@dataclass(frozen=True, eq=False)
class Definition:
    """What a name stands for: a module, a class, a function or another value, or a name of another package."""

    name: str
    """The dotted path of its module, and its name there."""
    module: str = ""
    """The module that defines it; empty if vLLM only imports it from another package."""
    node: ast.AST | None = None

    @property
    def function(self) -> Function | None:
        """Its code, if it is a function."""
        return self.node if isinstance(self.node, Function) else None


class Sources:
    """The sources of vLLM in a folder that has the package `vllm`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.definitions = cache(self._definitions)
        self.members = cache(self._members)
        self.set_attributes = cache(self._set_attributes)

    def path(self, module: str) -> Path | None:
        """Return the file of a module, None if there is none."""
        plain = self.root / module.replace(".", "/")
        return next((path for path in (plain.with_suffix(".py"), plain / "__init__.py") if path.is_file()), None)

    def find(self, dotted: str) -> Definition | None:
        """Return what a path of module, names and attributes stands for, None if it is not there."""
        found = self._find(dotted)
        if found is None and dotted.rpartition(".")[2] in PYTHON and self._find(dotted.rpartition(".")[0]):
            return Definition(dotted)
        return found

    def _find(self, dotted: str) -> Definition | None:
        if self.path(dotted):
            return Definition(dotted, dotted, ast.Module([], []))
        owner, _, name = dotted.rpartition(".")
        if not owner:
            return None
        if self.path(owner):
            return self._in_module(owner, name)
        found = self.find(owner)
        if found is None or not found.module:  # of another package: importing vLLM's sources does not tell more
            return found
        if found.function is not None:
            of_decorator = Definition(dotted) if found.function.decorator_list else None
            return self.set_attributes(found).get(name) or of_decorator
        return self.member(found, name) if isinstance(found.node, ast.ClassDef) else Definition(dotted)

    def _in_module(self, module: str, name: str) -> Definition | None:
        node = self.definitions(module).get(name)
        if node is None:
            star = (self._in_module(other, name) for other in self._star_imports(module))
            return next((found for found in star if found), None)
        if not isinstance(node, ast.Import | ast.ImportFrom):
            return Definition(f"{module}.{name}", module, node)
        target = import_target(node, name, module, is_package=self._is_package(module))
        if target.partition(".")[0] != PACKAGE:
            return Definition(target)
        return self.find(target)

    def _is_package(self, module: str) -> bool:
        path = self.path(module)
        return path is not None and path.name == "__init__.py"

    def _star_imports(self, module: str) -> Iterator[str]:
        for node in self._body(module):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                other = absolute(node, module, is_package=self._is_package(module))
                if self.path(other):
                    yield other

    def _body(self, module: str) -> Iterator[ast.stmt]:
        path = self.path(module)
        yield from statements(ast.parse(path.read_text(encoding="utf-8")).body if path else [])

    def _definitions(self, module: str) -> dict[str, ast.AST]:
        """Return the nodes that bind the names of a module, by name."""
        return {name: node for node in self._body(module) for name in bound_names(node)}

    def member(self, owner: Definition, name: str) -> Definition | None:
        """Return an attribute of a class, None if neither it nor a base class has it."""
        if (found := self.members(owner).get(name)) is not None:
            return found
        inherited = (self.member(base, name) for base in self.bases(owner) if base.module)
        of_vllm = next((found for found in inherited if found), None)
        return of_vllm or next((base for base in self.bases(owner) if not base.module and _has(base.name, name)), None)

    def _members(self, owner: Definition) -> dict[str, Definition]:
        """Return the attributes that the class itself has, or sets in its methods."""
        found: dict[str, Definition] = {}
        if not isinstance(owner.node, ast.ClassDef):
            return found
        for node in ast.walk(owner.node):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=attr, ctx=ast.Store()):
                    found.setdefault(attr, Definition(f"{owner.name}.{attr}", owner.module, node))
        for statement in statements(owner.node.body):
            for name in bound_names(statement):
                found[name] = Definition(f"{owner.name}.{name}", owner.module, statement)
        return found

    def _set_attributes(self, owner: Definition) -> dict[str, Definition]:
        """Return the attributes that a function sets on its arguments and variables, by name."""
        nodes = ast.walk(owner.node) if owner.node else ()
        stored = (node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
        return {node.attr: Definition(f"{owner.name}.{node.attr}", owner.module, node) for node in stored}

    def bases(self, owner: Definition) -> list[Definition]:
        """Return the base classes; those of other packages have no module."""
        bases = owner.node.bases if isinstance(owner.node, ast.ClassDef) else []
        plain = [base.value if isinstance(base, ast.Subscript) else base for base in bases]
        names = [ast.unparse(base) for base in plain]
        return [found for name in names if (found := self._resolve(owner.module, name))]

    def _resolve(self, module: str, name: str) -> Definition | None:
        first, _, rest = name.partition(".")
        found = self._in_module(module, first)
        if found is None:
            return Definition(f"builtins.{name}")
        if not rest:
            return found
        return self.find(f"{found.name}.{rest}") if found.module else Definition(f"{found.name}.{rest}")


@cache
def _has(dotted: str, name: str) -> bool:
    """Whether a class of another package has an attribute; True if it is not installed."""
    module, _, rest = dotted.rpartition(".")
    try:
        return hasattr(getattr(importlib.import_module(module), rest), name)
    except (ImportError, AttributeError, ValueError):
        return True
