"""Shortens the log of vLLM's handlers: errors that clients are told about need no traceback."""

import logging

_EXPECTED = frozenset({"GracefulHTTPError", "EngineDeadError"})
"""Refusals of requests; and the engine's death, once per open request: its cause is logged once, by the engine."""


class WithoutExpectedTracebacks(logging.Filter):
    """Replaces the traceback of an expected error by its type. Imported by vLLM's processes, so it imports nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record; returns True."""
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None and kind.__name__ in _EXPECTED:
            record.msg, record.args = f"{record.getMessage()} ({kind.__name__})", ()
            record.exc_info = record.exc_text = None
        return True
