"""A `loramux serve` (or `make serve`) in a process group of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.conftest import REPOSITORY

LORAMUX = str(Path(sys.executable).with_name("loramux"))


@dataclass
class ServeProcess:
    """A started command, and what it said so far."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: dict[int, psutil.Process]

    @property
    def output(self) -> str:
        """All that it wrote to standard output and error, without terminal codes."""
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where it serves, as it says itself."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.output)
        assert found, self.output
        return found.group()

    def wait_for_output(self, words: str, seconds: float) -> None:
        """Wait for these words; fail with all that it said if it ends or is silent before."""
        deadline = time.monotonic() + seconds
        while words not in self.output:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"not said in {seconds} s: {words}\n{self.output}"
            self.descendants()
            time.sleep(0.2)

    def wait_until_serving(self, seconds: float = 400) -> str:
        """Wait until requests are taken, and return where."""
        self.wait_for_output("serving; Ctrl-C ends it", seconds)
        assert httpx.get(f"{self.url}/ready").status_code == 200
        return self.url

    def descendants(self) -> list[psutil.Process]:
        """Every process that it ever started, as far as was seen."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child
        return list(self.seen.values())

    def named(self, part: str) -> list[psutil.Process]:
        """Those of them that run now and have `part` in their name; some live for a moment only."""
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                if part in process.name():
                    found.append(process)
        return found

    def left_behind(self, seconds: float = 5) -> list[psutil.Process]:
        """Those of them that are still running a while after its end."""
        _, alive = psutil.wait_procs(self.descendants(), timeout=seconds)
        return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def serving(
    command: list[str], folder: Path, working_folder: Path = REPOSITORY, **environment: str
) -> Iterator[ServeProcess]:
    """Start `command` in `working_folder`, with its data in `folder`, on any free port; end it if it has not ended."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "said.log"
    set_anew = {"LORAMUX_PORT": "0", "LORAMUX_DATA_DIR": str(folder), "COLUMNS": "200", "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=working_folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | set_anew | environment,
        )
        started = ServeProcess(process, log, {})
        try:
            yield started
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for leftover in started.left_behind(0):
                leftover.kill()


def reuse_demo_base(folder: Path) -> None:
    """Let a server with its data in `folder` find the demo's base that the repository's own data folder has."""
    from loramux_server.base_model import resolve_base

    resolve_base("demo", REPOSITORY / ".loramux", progress=print)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bases").symlink_to(REPOSITORY / ".loramux" / "bases")
