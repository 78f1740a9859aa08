"""The files that the page is made of: ours beside this module, and the chart library's in its own package."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

STATIC = Path(__file__).parent / "static"
PAGE = "dashboard.html"
CHARTS = "plotly.min.js"
"""Plotly's script, as the Python package `plotly` brings it."""

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class File:
    """A file as it is sent, plain and compressed; `tag` changes with its content."""

    media_type: str
    plain: bytes
    packed: bytes
    tag: str


def load(name: str) -> File | None:
    """Return the file of this name, None if the page has none; the first time, it takes as long as packing it."""
    path = _path(name)
    return _read(path) if path and path.is_file() else None


def _path(name: str) -> Path | None:
    """Names come from outside, so they are looked up and never joined to a folder."""
    if name == CHARTS:
        return _charts()
    return {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}.get(name)


@cache
def _read(path: Path) -> File:
    plain = path.read_bytes()
    tag = f'"{hashlib.sha256(plain).hexdigest()[:20]}"'
    return File(_TYPES[path.suffix], plain, gzip.compress(plain, 6, mtime=0), tag)


def _charts() -> Path | None:
    """Where the script lies; the package is not imported, which would cost memory for nothing."""
    try:
        return Path(str(distribution("plotly").locate_file(f"plotly/package_data/{CHARTS}")))
    except PackageNotFoundError:
        return None
