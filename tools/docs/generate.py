"""Writes the generated part of the documentation: `python -m tools.docs.generate`, which `make docs` runs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from tools.docs.cli_page import cli_page
from tools.docs.http_api_page import http_api_page
from tools.docs.python_pages import python_pages
from tools.docs.settings_page import settings_page

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def generate(folder: Path) -> None:
    """Write the reference into `folder`, in place of what it contains."""
    pages = {
        "settings.md": settings_page(),
        "command-line.md": cli_page(),
        "http-api.md": asyncio.run(http_api_page()),
        **{f"python/{name}": text for name, text in python_pages().items()},
    }
    if folder.exists():
        shutil.rmtree(folder)
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(REFERENCE)
