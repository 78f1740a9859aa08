"""Runs Debian's Prometheus on a free port, downloaded without root into a folder that git ignores."""

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.helpers.deploy_files import PROMETHEUS

TOOLS = Path(__file__).parents[2] / ".tools"
_PACKAGE = "prometheus"


def installed() -> Path:
    """Return the folder of `prometheus` and `promtool`, after downloading them if needed; skip the test without apt."""
    installation = TOOLS / _PACKAGE
    if not installation.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            pytest.skip("needs Debian's apt-get and dpkg-deb, which fetch Prometheus")
        TOOLS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
            _unpack(_downloaded(Path(folder)), Path(folder) / "unpacked")
            with contextlib.suppress(OSError):  # another test run renamed first
                (Path(folder) / "unpacked").rename(installation)
    return installation / "usr" / "bin"


def _downloaded(folder: Path) -> Path:
    """Download the package, with the machine's package lists or else with updated ones."""
    lists, cache = folder / "lists", folder / "cache"
    for directory in (lists, cache):
        (directory / "partial").mkdir(parents=True)
    own = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={cache}", "-oAPT::Sandbox::User="]
    for commands in ([["download", _PACKAGE]], [[*own, "update"], [*own, "download", _PACKAGE]]):
        if all(_apt(folder, command) for command in commands):
            return next(folder.glob("*.deb"))
    pytest.skip("apt-get can't download Prometheus here")


def _apt(folder: Path, command: list[str]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(["apt-get", "-qq", *command], cwd=folder, capture_output=True, timeout=120, check=False)
        return done.returncode == 0
    return False


def _unpack(package: Path, folder: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True, capture_output=True)


def promtool(*arguments: str | Path) -> None:
    """Run promtool; fail with its output."""
    command = [installed() / "promtool", *arguments]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def configuration(folder: Path, target: str, key: str) -> Path:
    """Write the committed configuration with `key`, `target` and intervals of 1 second; returns its path."""
    text = (PROMETHEUS / "prometheus.yml").read_text()
    uncommented = re.sub(r"# (authorization:|  credentials_file:)", r"\1", text)
    config = yaml.safe_load(uncommented)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    shutil.copytree(PROMETHEUS / "rules", folder / "rules")
    (folder / "api-key").write_text(key)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass
class Prometheus:
    """A client of a running Prometheus."""

    http: httpx.AsyncClient

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series of `expr` now, without NaN values."""
        data = await self._get("/api/v1/query", query=expr)
        return [series for series in data["result"] if series["value"][1] != "NaN"]

    async def rules(self) -> dict[str, dict[str, Any]]:
        """Return all rules by name."""
        groups = (await self._get("/api/v1/rules"))["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    async def until(self, expr: str, enough: Callable[[list[dict[str, Any]]], bool] = bool, wait: float = 20) -> Any:
        """Poll `expr` until `enough` is true for its series or `wait` seconds have passed; returns the last series."""
        ends = time.monotonic() + wait
        while True:
            series = await self.query(expr)
            if enough(series) or time.monotonic() > ends:
                return series
            await asyncio.sleep(0.5)

    async def _get(self, path: str, **parameters: str) -> Any:
        answer = await self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@contextlib.asynccontextmanager
async def running(folder: Path, config: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus until the context exits."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(installed() / "prometheus", *options, stderr=log)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as http:
            assert await _ready(http, process), (folder / "log").read_text()
            yield Prometheus(http)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _ready(http: httpx.AsyncClient, process: asyncio.subprocess.Process) -> bool:
    async with asyncio.timeout(60):
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/-/ready")).status_code == 200:
                    return True
            await asyncio.sleep(0.1)
    return False
