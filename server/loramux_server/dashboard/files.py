"""The files of the page: those in `static/`, and the chart library's script in its own package."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

STATIC = Path(__file__).parent / "static"
PAGE = "dashboard.html"
CHARTS_SCRIPT = "plotly.min.js"
"""Plotly's script, contained in the Python package `plotly`."""

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class StaticFile:
    """A file, plain and compressed with gzip; `tag` is its ETag, derived from its content."""

    media_type: str
    plain: bytes
    gzipped: bytes
    tag: str


def load(name: str) -> StaticFile | None:
    """Return the file with this name, or None; the first call compresses it."""
    path = _path(name)
    return _read(path) if path and path.is_file() else None


def _path(name: str) -> Path | None:
    """Look the name up; it comes from a client, so it is never joined to a path."""
    if name == CHARTS_SCRIPT:
        return _charts_script()
    return {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}.get(name)


@cache
def _read(path: Path) -> StaticFile:
    plain = path.read_bytes()
    tag = f'"{hashlib.sha256(plain).hexdigest()[:20]}"'
    return StaticFile(_TYPES[path.suffix], plain, gzip.compress(plain, 6, mtime=0), tag)


def _charts_script() -> Path | None:
    """Return the script's path, without importing the package, which would waste memory."""
    try:
        return Path(str(distribution("plotly").locate_file(f"plotly/package_data/{CHARTS_SCRIPT}")))
    except PackageNotFoundError:
        return None
