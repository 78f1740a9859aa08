"""The server's log on standard error, as text or as lines of JSON, without secrets and prompts.

An error of a request is logged in one line, by its type and its place in the code: its message may quote the request.
"""

import logging
import sys
import traceback
from types import TracebackType

from pythonjsonlogger.json import JsonFormatter

from loramux_server.request_context import current_request
from loramux_server.settings.log_settings import LogSettings

ACCESS, START = "loramux.access", "loramux.start"
"""Loggers of requests that have ended, and of the steps of the start."""
_FIELDS = {"levelname": "level", "name": "logger", "exc_info": "exception"}
_MAX_FRAMES = 5
_CONTROL_CHARACTERS = {code: repr(chr(code))[1:-1] for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logging(settings: LogSettings) -> None:
    """Send all logs of this process to standard error, in the format of the settings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if settings.format == "json" else _TextLines())
    handler.addFilter(_RequestDetails(settings.tracebacks))
    logging.getLogger().addHandler(handler)
    for name, is_on in ((ACCESS, settings.requests), (START, settings.format == "json")):
        logging.getLogger(name).setLevel(logging.INFO if is_on else logging.WARNING)


class _RequestDetails(logging.Filter):
    """Adds the id of the present request, and shortens its exceptions unless `with_tracebacks` is set."""

    def __init__(self, with_tracebacks: bool) -> None:
        super().__init__()
        self._with_tracebacks = with_tracebacks

    def filter(self, record: logging.LogRecord) -> bool:
        context = current_request.get(None)
        if context is None:
            return True
        record.request_id = context.request_id
        if record.exc_info and record.exc_info[1] is not None and not self._with_tracebacks:
            record.error = summary(record.exc_info[1])
            record.exc_info = record.exc_text = None
        return True


class _TextLines(logging.Formatter):
    """One line per record, except for the tracebacks of background work."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line: control characters are escaped, so that no client can forge another one."""
        parts = (super().formatMessage(record), getattr(record, "error", None), getattr(record, "request_id", None))
        return " | ".join(filter(None, parts)).translate(_CONTROL_CHARACTERS)


class _JsonLines(JsonFormatter):
    """One JSON object per record: `timestamp`, `level`, `logger`, `message`, `request_id`, and what else is known."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s", rename_fields=_FIELDS, timestamp=True)


def summary(error: BaseException) -> str:
    """Return the type of an exception, its causes, and the innermost calls, without messages."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    places = [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
    return f"{_types(error)} in {' < '.join(places)}"


def _types(error: BaseException) -> str:
    cause = error.__cause__
    return type(error).__name__ + (f" from {_types(cause)}" if cause is not None else "")
