"""Long work whose progress the client wants to see: lines of JSON as it goes on, the last one with its result."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from loramux_adapters.errors import AdapterError
from loramux_server.errors import SERVER_FAULT, LoramuxError, envelope, from_adapter_error

NDJSON = "application/x-ndjson"

Tell = Callable[[str], None]


def wants_progress(request: Request) -> bool:
    """Whether the client asked for lines instead of one answer."""
    return NDJSON in request.headers.get("accept", "")


def with_progress(work: Callable[[Tell], Awaitable[BaseModel]]) -> StreamingResponse:
    """Answer `{"progress": WORDS}` lines, and at last `{"version": RESULT}` or `{"error": ...}`.

    The status is 200 before the end is known. `work` may tell from any thread, and goes on if the client is gone.
    """
    return StreamingResponse(_lines(work), media_type=NDJSON)


async def _lines(work: Callable[[Tell], Awaitable[BaseModel]]) -> AsyncIterator[str]:
    loop, told = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def tell(words: str) -> None:
        loop.call_soon_threadsafe(told.put_nowait, words)

    task = asyncio.ensure_future(work(tell))
    task.add_done_callback(lambda _: told.put_nowait(None))
    while (words := await told.get()) is not None:
        yield _line({"progress": words})
    yield _line(_outcome(task))


def _outcome(task: "asyncio.Future[BaseModel]") -> dict[str, object]:
    try:
        return {"version": task.result().model_dump(mode="json")}
    except AdapterError as error:
        return envelope(from_adapter_error(error))
    except LoramuxError as error:
        return envelope(error)
    except Exception:  # noqa: BLE001 - the status went out long ago; the log has it
        return envelope(LoramuxError(SERVER_FAULT))


def _line(content: dict[str, object]) -> str:
    return json.dumps(content) + "\n"
