"""The reference of the Python packages: one page per module or subpackage, which mkdocstrings fills."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tools.docs.markdown import NOTICE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "server/loramux_server": "the server",
    "adapters/loramux_adapters": "adapters and fine-tuning",
    "loadtests/loramux_loadtests": "comparisons and load tests",
}
NO_PAGE = ("__init__", "__main__", "migrations", "examples")
"""Modules and folders of the packages that have no functions for others."""


def python_pages() -> dict[str, str]:
    """Return the text of each page by its path below docs/reference/python/."""
    return {
        f"{package.name}/{module}.md": page(f"{package.name}.{module}", package / module)
        for package in (ROOT / folder for folder in PACKAGES)
        for module in modules(package)
    }


def modules(package: Path) -> Iterator[str]:
    """Yield the names of a package's modules and subpackages that have a page."""
    for path in sorted(package.iterdir()):
        is_package = (path / "__init__.py").exists()
        if (is_package or path.suffix == ".py") and path.stem not in NO_PAGE:
            yield path.stem


def page(name: str, path: Path) -> str:
    """Return the page of a module, or of a subpackage and every module in it."""
    names = [name]
    if path.is_dir():
        inner = sorted(path.rglob("*.py"))
        names += [
            ".".join((name, *file.relative_to(path).with_suffix("").parts))
            for file in inner
            if file.stem not in NO_PAGE and not set(file.relative_to(path).parts) & set(NO_PAGE)
        ]
    blocks = [f"::: {dotted}\n    options:\n      heading_level: 2\n" for dotted in names]
    return "\n".join([NOTICE, f"# {name}\n", *blocks])
