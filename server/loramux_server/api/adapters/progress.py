"""Long work whose progress the client wants to see: lines of JSON as it goes on, the last one with its result."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.sources import Tell
from loramux_server.errors import SERVER_FAULT, LoramuxError, ShuttingDown, envelope, from_adapter_error

NDJSON = "application/x-ndjson"

log = logging.getLogger(__name__)


def wants_progress(request: Request) -> bool:
    """Whether the client asked for lines instead of one answer."""
    return NDJSON in request.headers.get("accept", "")


def with_progress(work: Callable[[Tell], Coroutine[Any, Any, BaseModel]]) -> StreamingResponse:
    """Answer `{"progress": WORDS}` lines, and at last `{"version": RESULT}` or `{"error": ...}`.

    The status is 200 before the end is known. `work` begins at once, may tell from any thread, and goes on if the
    client is gone.
    """
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

    def tell(words: str) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, {"progress": words})

    def end(ended: "asyncio.Task[BaseModel]") -> None:
        lines.put_nowait(_outcome(ended))
        lines.put_nowait(None)

    task = asyncio.create_task(work(tell))
    task.add_done_callback(end)
    return StreamingResponse(_written(lines), media_type=NDJSON)


async def _written(lines: "asyncio.Queue[dict[str, Any] | None]") -> AsyncIterator[str]:
    while (line := await lines.get()) is not None:
        yield json.dumps(line) + "\n"


def _outcome(ended: "asyncio.Task[BaseModel]") -> dict[str, Any]:
    try:
        return {"version": ended.result().model_dump(mode="json")}
    except AdapterError as error:
        return envelope(from_adapter_error(error))
    except asyncio.CancelledError:
        return envelope(ShuttingDown())
    except Exception:
        log.exception("adding an adapter failed")
        return envelope(LoramuxError(SERVER_FAULT))
