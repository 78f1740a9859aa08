"""uv, which installs packages: where it is, and how it learns what pip has been told about the network."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.progress import Progress, SetupError

OLDEST = (0, 9)
"""The oldest uv that knows every option we use."""

SECTIONS = ("global", "install", ":env:")
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def find_uv(private: Path, requirement: Path, progress: Progress, lock: int) -> str:
    """Return the path of a uv that works: the machine's, else one in the environment `private`, made if needed."""
    for candidate in (shutil.which("uv"), str(private / "bin" / "uv")):
        if candidate and _version(candidate) >= OLDEST:
            return candidate
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError("this Python can't make environments: `apt-get install python3-venv` (or install uv)")
    progress.run("fetching uv", [sys.executable, "-m", "venv", "--clear", str(private)], os.environ, lock)
    install = [str(private / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(requirement)]
    progress.run("fetching uv, which installs the rest", install, os.environ, lock)
    return str(private / "bin" / "uv")


def _version(uv: str) -> tuple[int, ...]:
    try:
        words = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"(\d+)\.(\d+)", words)
    return tuple(int(part) for part in found.groups()) if found else ()


def uv_environment(private: Path) -> dict[str, str]:
    """Return the environment for uv: ours, with pip's settings in uv's words, because uv reads none of pip's.

    What is set for uv itself wins.
    """
    pythons = [str(private / "bin" / "python"), sys.executable]
    listings = (_pip_config(python) for python in pythons)
    told = uv_settings(next((listing for listing in listings if listing), ""))
    return {**told, **os.environ, "UV_NO_PROGRESS": "1"}


def _pip_config(python: str) -> str:
    try:
        command = [python, "-m", "pip", "config", "list"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def uv_settings(listing: str) -> dict[str, str]:
    """Translate what `pip config list` prints into uv's environment variables.

    A line is SECTION.KEY='VALUE'; of the sections that hold for `pip install`, the later in SECTIONS wins.
    """
    values: dict[str, list[str]] = {}
    for section in SECTIONS:
        for key, quoted in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listing, re.MULTILINE):
            values[key] = _unquoted(quoted).split()
    values["find-links"] = [place for place in values.get("find-links", []) if _is_there(place)]
    settings = {PIP_TO_UV[key]: " ".join(value) for key, value in values.items() if key in PIP_TO_UV and value}
    if "UV_FIND_LINKS" in settings:
        settings["UV_FIND_LINKS"] = ",".join(values["find-links"])
    if "UV_INDEX" in settings:
        # pip looks in all indexes alike; uv would stop at the first that has the name.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return settings


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text


def _is_there(place: str) -> bool:
    """Say whether a place for wheels can be looked into: pip skips a missing folder, uv stops at it."""
    return "://" in place or Path(place).exists()
