"""vLLM, embedded once: the engine from its arguments, and its OpenAI handlers on an application of ours."""

import asyncio
import signal
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from multiprocessing import resource_tracker
from threading import Thread
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.anthropic.api_router import router as messages
from vllm.entrypoints.openai.chat_completion.api_router import router as chat
from vllm.entrypoints.openai.completion.api_router import router as completions
from vllm.entrypoints.openai.responses.api_router import router as responses
from vllm.entrypoints.serve.tokenize.api_router import router as tokenize
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from loramux_server.engine.vllm_compat import init_app_state, init_exception_handler
from loramux_server.engine.worker.kv_zeroing import schedule_from_here
from loramux_server.errors import CannotStart

T = TypeVar("T")

OPERATIONS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
"""The operations of vLLM that are served. An allow-list: what a later vLLM adds stays out until it is named here."""


class EngineFailed(CannotStart):
    """vLLM refused its configuration, or its processes ended while they started."""


@asynccontextmanager
async def vllm_engine(arguments: Namespace) -> AsyncIterator[AsyncLLM]:
    """Start the engine in processes of its own, and end them when the context does, whatever ends it.

    The engine is built in a thread, so that the event loop stays awake meanwhile, and with SIGTERM and SIGINT blocked,
    which its processes inherit: a terminal's Ctrl-C and a supervisor's SIGTERM reach the whole group, and an engine
    that obeys them takes the streams down that we are to finish. They are ended by SIGKILL, as vLLM itself does.
    """
    engine = await _in_daemon_thread(lambda: _start(arguments))
    try:
        await engine.reset_mm_cache()
        yield engine
    finally:
        engine.shutdown(timeout=0)


def _start(arguments: Namespace) -> AsyncLLM:
    resource_tracker.ensure_running()  # first, because starting it unblocks the two
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    usage = UsageContext.OPENAI_API_SERVER
    try:
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(usage_context=usage)
        schedule_from_here(config.scheduler_config)
        return AsyncLLM.from_vllm_config(vllm_config=config, usage_context=usage)
    except Exception as error:
        raise EngineFailed(f"vLLM could not start: {error}") from error


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """`asyncio.to_thread`, but an interpreter that is told to stop does not wait for the thread."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on it can't be cancelled: the thread always sets it

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
            future.set_exception(error)

    Thread(target=run, name="engine-start", daemon=True).start()
    return await asyncio.wrap_future(future)


async def mount_openai(
    app: FastAPI,
    engine: Any,
    directory: Mapping[str, LoRARequest],
    arguments: Namespace,
    before_each: Callable[[Request], Awaitable[None]],
) -> None:
    """Serve vLLM's own OpenAI handlers from `app`, on `engine`, with model names looked up in `directory`.

    `before_each` sees every request to them, its body parsed.
    """
    await init_app_state(engine, app.state, arguments, await engine.get_supported_tasks())
    app.state.openai_serving_models.lora_requests = directory
    served = _served((chat, completions, responses, messages, tokenize))
    app.include_router(served, dependencies=[Depends(before_each)])
    init_exception_handler(app)


def _served(routers: Iterable[APIRouter]) -> APIRouter:
    """One router with the operations that are served, out of all that vLLM's have."""
    served = APIRouter()
    served.routes = [route for router in routers for route in router.routes if getattr(route, "path", "") in OPERATIONS]
    return served
