"""The names that the statements of a module or class bind."""

import ast
from collections.abc import Iterator


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, also those in branches: which of them run depends on the machine."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(node, part, []):
                    yield from statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def bound_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Assign():
            yield from (each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Import():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        case ast.ImportFrom():
            yield from (alias.asname or alias.name for alias in node.names)


def import_target(node: ast.Import | ast.ImportFrom, name: str, module: str, *, is_package: bool) -> str:
    """Return the dotted path of what an import binds to `name`."""
    if isinstance(node, ast.Import):
        return next(
            alias.name if alias.asname else name
            for alias in node.names
            if name in (alias.asname, alias.name.partition(".")[0])
        )
    original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
    return f"{absolute(node, module, is_package=is_package)}.{original}"


def absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """Return the dotted path of the module from which `module` imports."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])
