"""Streaming the progress of a long operation: lines of JSON, the last one with the result."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.sources import ReportProgress
from loramux_server.errors import SERVER_FAULT, LoramuxError, ShuttingDown, envelope, from_adapter_error

NDJSON = "application/x-ndjson"

log = logging.getLogger(__name__)


def wants_progress(request: Request) -> bool:
    """Whether the client accepts lines of JSON instead of one response."""
    return NDJSON in request.headers.get("accept", "")


def with_progress(work: Callable[[ReportProgress], Coroutine[Any, Any, BaseModel]]) -> StreamingResponse:
    """Respond with `{"progress": TEXT}` lines and a last line `{"version": RESULT}` or `{"error": ...}`.

    The status is 200, whatever the result. `work` starts immediately, may report progress from any thread, and
    continues if the client disconnects.
    """
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

    def report_progress(step: str) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, {"progress": step})

    def finish(task: "asyncio.Task[BaseModel]") -> None:
        lines.put_nowait(_last_line(task))
        lines.put_nowait(None)

    task = asyncio.create_task(work(report_progress))
    task.add_done_callback(finish)
    return StreamingResponse(_encode(lines), media_type=NDJSON)


async def _encode(lines: "asyncio.Queue[dict[str, Any] | None]") -> AsyncIterator[str]:
    while (line := await lines.get()) is not None:
        yield json.dumps(line) + "\n"


def _last_line(task: "asyncio.Task[BaseModel]") -> dict[str, Any]:
    try:
        return {"version": task.result().model_dump(mode="json")}
    except AdapterError as error:
        return envelope(from_adapter_error(error))
    except asyncio.CancelledError:
        return envelope(ShuttingDown())
    except Exception:
        log.exception("adding an adapter failed")
        return envelope(LoramuxError(SERVER_FAULT))
