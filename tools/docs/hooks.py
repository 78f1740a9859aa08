"""Hooks of MkDocs: links to files outside docs/ point at the repository, and the navigation lists generated pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from tools.docs.python_pages import PACKAGES, modules

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?P<before>\]\()(?P<target>(?![a-z]+:|#|/)[^)#\s]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")
PYTHON_SECTION, DECISIONS_SECTION = "Python API", "Decisions"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the navigation whose pages are not listed in mkdocs.yml."""
    config.nav = [*(config.nav or []), {PYTHON_SECTION: python_navigation()}, {DECISIONS_SECTION: decisions()}]
    return config


def decisions() -> list[str]:
    """Return the paths of the decision records, in order."""
    return [f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]


def python_navigation() -> list[dict[str, Any]]:
    """Return the navigation of the Python packages: a section per package, a page per module."""
    return [
        {f"{Path(folder).name}: {title}": [{name: _page(folder, name)} for name in modules(ROOT / folder)]}
        for folder, title in PACKAGES.items()
    ]


def _page(folder: str, name: str) -> str:
    return f"reference/python/{Path(folder).name}/{name}.md"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Point links to files outside docs/ at the repository.

    Raises:
        PluginError: a link's target does not exist.

    """
    here = Path(config.docs_dir) / Path(page.file.src_uri).parent
    return LINK.sub(lambda link: _resolve(link, here, Path(config.docs_dir), str(config.repo_url)), markdown)


def _resolve(link: re.Match[str], here: Path, docs: Path, repository: str) -> str:
    target = Path(os.path.normpath(here / link["target"]))
    if target.is_relative_to(docs) and not target.is_dir():
        return link[0]  # MkDocs checks these itself
    if not target.exists():
        raise PluginError(f"{here}: the link to {link['target']} points at a file that does not exist")
    kind = "tree" if target.is_dir() else "blob"
    address = f"{repository.rstrip('/')}/{kind}/main/{target.relative_to(docs.parent).as_posix()}"
    return f"{link['before']}{address}{link['anchor'] or ''}{link['after']}"
