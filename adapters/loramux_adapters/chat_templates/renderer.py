"""Renders conversations by one chat template in a process of its own, which ends at its limits of time and memory.

Jinja's sandbox keeps a template from the interpreter's internals, not from an endless loop, a gigabyte of text, or an
operation that holds the interpreter's lock for hours: in the server's own process, one template could stop every route.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_adapters.chat_templates.errors import LimitExceededError, RenderingError
from loramux_adapters.chat_templates.process import MAX_TEXT_CHARACTERS

COMMAND = (sys.executable, "-I", "-m", "loramux_adapters.chat_templates.process")
CPU_SECONDS = 1.0
"""CPU time for one conversation."""
MAX_WALL_SECONDS = 20.0
"""The limit for one conversation on a machine so busy that CPU_SECONDS take that long."""
_MAX_REPLY_BYTES = 7 * MAX_TEXT_CHARACTERS  # a character has at most 6 bytes in JSON, except for a few with 12
_READ_BYTES = 1 << 20


class Features(BaseModel):
    """Properties of a template on which vLLM's rendering depends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variables: tuple[str, ...]
    """The variables that it reads, by name."""
    has_content_parts: bool
    """Whether it reads the content of a message as a list of parts."""
    has_developer_role: bool
    """Whether it mentions the role `developer`."""
    needs_system_first: bool
    """Whether it refuses a system message after another message, in the conversation by which vLLM finds out."""


class TemplateRenderer:
    """Renders by the template `text`; starts its process when it is needed, and again after it ended.

    Its methods block, and must not be called by several threads at the same time. The process ends with this object.
    """

    def __init__(self, text: str, cpu_seconds: float = CPU_SECONDS) -> None:
        self._text, self._cpu_seconds = text, cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def features(self) -> Features:
        """Return what the template needs.

        Raises:
            RenderingError: the template is malformed, or exceeds its limits.
        """
        self.close()
        return self._start()

    def render(
        self, values: Mapping[str, Any], now: datetime | None = None, max_characters: int = MAX_TEXT_CHARACTERS
    ) -> str:
        """Return the text of a conversation.

        Args:
            values: the template's variables, of types that JSON has.
            now: today, for templates that write it; None for the machine's time.
            max_characters: the length of the longest text that is of use.

        Raises:
            RenderingError: the template refuses the values, or exceeds its limits.
        """
        try:
            request = {"values": dict(values), "now": now and now.isoformat(), "max_characters": max_characters}
            line = json.dumps(request)
        except (TypeError, ValueError, RecursionError) as error:
            raise RenderingError("a value of the request is not JSON") from error
        if self._process is None or self._process.poll() is not None:
            self._start()
        return str(self._ask(line).get("text", ""))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()
            self._process = None

    def _start(self) -> Features:
        self.close()
        self._process = subprocess.Popen(
            (*COMMAND, str(self._cpu_seconds)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},  # no secrets
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is for the server
        )
        self._end = weakref.finalize(self, _end, self._process)
        reply = self._ask(json.dumps({"template": self._text}))
        try:
            return Features.model_validate(reply)
        except ValidationError as error:
            raise RenderingError("it could not be read") from error

    def _ask(self, line: str) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RenderingError("its process has ended")
        try:
            _write_all(process.stdin, line.encode() + b"\n")
            reply = dict(json.loads(_read_line(process.stdout, time.monotonic() + MAX_WALL_SECONDS)))
        except (OSError, EOFError, TypeError, ValueError) as error:
            process.kill()
            raise LimitExceededError(self._end_reason(process.wait())) from error
        if "error" in reply:
            raise (LimitExceededError if reply.get("is_limit") else RenderingError)(_printable(str(reply["error"])))
        return reply

    def _end_reason(self, code: int) -> str:
        if code == -signal.SIGPROF:
            return f"it takes more than {self._cpu_seconds:g} s"
        return "it exceeds the limits of time or memory"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _printable(text: str) -> str:
    """Return the text without characters that could forge lines of a log; the template chose it."""
    return "".join(character if character.isprintable() else " " for character in text)


def _write_all(pipe: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[pipe.write(view) :]


def _read_line(pipe: IO[bytes], deadline: float) -> bytes:
    """Return the next line.

    Raises:
        TimeoutError: it is not complete at the deadline.
        EOFError: the process has ended.
        ValueError: it is too long.
    """
    line, poll = bytearray(), select.poll()  # not select(), which fails for descriptors from 1024 on
    poll.register(pipe, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        piece = os.read(pipe.fileno(), _READ_BYTES)
        if not piece:
            raise EOFError
        line += piece
        if len(line) > _MAX_REPLY_BYTES:
            raise ValueError("too long")
    return bytes(line)
