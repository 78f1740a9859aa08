"""Finds or installs uv, and passes pip's network configuration on to it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tools.steps import SetupError, StepRunner

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_VERSION = (0, 9)
"""The oldest uv with every option that the setup uses."""

SECTIONS = ("global", "install", ":env:")
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def find_uv(private: Path, requirement: Path, runner: StepRunner, lock: int) -> str:
    """Return the path of a suitable uv: the one on PATH, else one in the environment `private`, created if needed.

    Raises:
        SetupError: uv can't be installed.

    """
    for candidate in (shutil.which("uv"), str(private / "bin" / "uv")):
        if candidate and _version(candidate) >= MIN_VERSION:
            return candidate
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError("this Python can't create environments: run `apt-get install python3-venv`, or install uv")
    runner.run(
        "creating an environment for uv", [sys.executable, "-m", "venv", "--clear", str(private)], os.environ, lock
    )
    install = [str(private / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(requirement)]
    runner.run("installing uv", install, os.environ, lock)
    return str(private / "bin" / "uv")


def _version(uv: str) -> tuple[int, ...]:
    try:
        output = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"(\d+)\.(\d+)", output)
    return tuple(int(part) for part in found.groups()) if found else ()


def uv_environment(private: Path) -> dict[str, str]:
    """Return the environment variables for uv: the present ones, and pip's configuration, which uv does not read.

    Variables that are already set for uv take precedence.
    """
    pythons = [str(private / "bin" / "python"), sys.executable]
    listings = (_pip_config(python) for python in pythons)
    from_pip = uv_settings(next((listing for listing in listings if listing), ""))
    return {**from_pip, **os.environ, "UV_NO_PROGRESS": "1"}


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of uv's cache, or its first parent that exists."""
    home = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(environ.get("UV_CACHE_DIR") or str(Path(home) / "uv")).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _pip_config(python: str) -> str:
    try:
        command = [python, "-m", "pip", "config", "list"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def uv_settings(listing: str) -> dict[str, str]:
    """Translate the output of `pip config list` into uv's environment variables.

    A line is SECTION.KEY='VALUE'; of the sections that apply to `pip install`, later ones in SECTIONS take precedence.
    """
    values: dict[str, list[str]] = {}
    for section in SECTIONS:
        for key, quoted in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listing, re.MULTILINE):
            values[key] = _unquote(quoted).split()
    values["find-links"] = [location for location in values.get("find-links", []) if _is_available(location)]
    settings = {PIP_TO_UV[key]: " ".join(value) for key, value in values.items() if key in PIP_TO_UV and value}
    if "UV_FIND_LINKS" in settings:
        settings["UV_FIND_LINKS"] = ",".join(values["find-links"])
    if "UV_INDEX" in settings:
        # pip searches all indexes; by default uv stops at the first one that has the package.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return settings


def _unquote(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text


def _is_available(location: str) -> bool:
    """Return whether a folder of wheels exists: pip skips missing folders, uv fails."""
    return "://" in location or Path(location).exists()
