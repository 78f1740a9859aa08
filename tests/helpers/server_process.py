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
    """A running command and its output."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: dict[int, psutil.Process]

    @property
    def output(self) -> str:
        """Everything written to standard output and error, without terminal codes."""
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """The server's URL, from its output."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.output)
        assert found, self.output
        return found.group()

    def wait_for_output(self, text: str, seconds: float) -> None:
        """Wait for `text` in the output; fail with the output if the process exits or the time is over."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"not in the output after {seconds} s: {text}\n{self.output}"
            self.descendants()
            time.sleep(0.2)

    def wait_until_serving(self, seconds: float = 400) -> str:
        """Wait until requests are accepted, and return the URL."""
        self.wait_for_output("serving; press Ctrl-C to stop", seconds)
        assert httpx.get(f"{self.url}/ready").status_code == 200
        return self.url

    def descendants(self) -> list[psutil.Process]:
        """Return all child processes seen so far."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child
        return list(self.seen.values())

    def named(self, part: str) -> list[psutil.Process]:
        """Return the running child processes with `part` in their name; some run only briefly."""
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                if part in process.name():
                    found.append(process)
        return found

    def left_behind(self, seconds: float = 5) -> list[psutil.Process]:
        """Return the child processes that still run `seconds` after the end."""
        _, alive = psutil.wait_procs(self.descendants(), timeout=seconds)
        return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def serving(
    command: list[str], folder: Path, working_folder: Path = REPOSITORY, **environment: str
) -> Iterator[ServeProcess]:
    """Start `command` in `working_folder`, with data in `folder`, on any free port; kill it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    overrides = {"LORAMUX_PORT": "0", "LORAMUX_DATA_DIR": str(folder), "COLUMNS": "200", "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=working_folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | overrides | environment,
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
    """Link the demo's base of the repository's data folder into `folder`, so that it need not be converted again."""
    from loramux_server.base_model import resolve_base

    resolve_base("demo", REPOSITORY / ".loramux", progress=print)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bases").symlink_to(REPOSITORY / ".loramux" / "bases")
