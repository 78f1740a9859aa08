"""Unpacks the Python sources of vLLM's wheel for CUDA; nothing is installed, and its kernels are not downloaded."""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
from tools.steps import SetupError

BLOCK_BYTES = 4 << 20
"""Of a range request. The sources are next to each other in the wheel, so most requests have many files."""
PLATFORM = ("--python-platform", "x86_64-manylinux_2_28", "--python-version", "3.12")


def locate(requirement: str, uv: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return version and location of the wheel that uv chooses for `requirement`, from the configured index.

    Raises:
        SetupError: there is none, or the index does not answer.
    """
    command = [uv, "pip", "compile", "-", "--no-deps", "--no-header", "--quiet", "--format", "pylock.toml", *PLATFORM]
    try:
        done = subprocess.run(
            command, input=f"{requirement}\n", env={**environment}, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"uv did not answer: {error}") from error
    if done.returncode:
        raise SetupError(f"no wheel for {requirement} was found:\n{done.stderr.strip()}")
    return read_lock(done.stdout)


def read_lock(text: str) -> tuple[str, str]:
    """Return version and location of the first wheel in a lock file (PEP 751).

    Raises:
        SetupError: it has none.
    """
    try:
        [package] = tomllib.loads(text)["packages"]
        wheel = package["wheels"][0]
        return str(package["version"]), str(wheel.get("url") or wheel["path"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise SetupError(f"uv's answer has no wheel ({error!r}):\n{text[:500]}") from error


def unpack(location: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Write the Python files of the wheel at `location` to `folder`, or nothing.

    Raises:
        SetupError: the wheel can't be read.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _opened(location, environment) as file, zipfile.ZipFile(file) as wheel:
            for each in sorted(wheel.infolist(), key=lambda each: each.header_offset):
                if _is_source(each.filename):
                    wheel.extract(each, partial)
        partial.rename(folder)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        problem = f"the wheel at {location} can't be read: {error}"
        raise SetupError(_without_credentials(problem)) from error


def _is_source(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".py" and path.parts[0] == "vllm" and ".." not in path.parts


@contextmanager
def _opened(location: str, environment: Mapping[str, str]) -> Iterator[IO[bytes] | Any]:
    """Open a wheel for reading in any order; over HTTP by range requests, or as a whole where a server has none."""
    if not location.startswith(("http://", "https://")):
        with Path(location.removeprefix("file://")).open("rb") as file:
            yield file
        return
    if certificates := environment.get("SSL_CERT_FILE"):
        os.environ.setdefault("SSL_CERT_FILE", certificates)
    protocol = location.partition(":")[0]
    files = fsspec.filesystem(protocol, client_kwargs={"trust_env": True}, block_size=BLOCK_BYTES)
    with files.open(location, cache_type="readahead") as file:
        if _has_ranges(file):
            yield file
            return
    with tempfile.NamedTemporaryFile(suffix=".whl") as whole:
        files.get_file(location, whole.name)
        with Path(whole.name).open("rb") as local:
            yield local


def _has_ranges(file: Any) -> bool:
    try:
        file.seek(-1, os.SEEK_END)
        file.read(1)
        file.seek(0)
    except ValueError:  # fsspec's, for a server without range requests
        return False
    return True


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
