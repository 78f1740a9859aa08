"""Starts vLLM's engine, and mounts its OpenAI handlers on our application."""

import signal
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from multiprocessing import resource_tracker
from typing import Any

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

from loramux_adapters.daemon_thread import run_in_daemon_thread
from loramux_server.engine.vllm_compat import init_app_state, init_exception_handler
from loramux_server.engine.worker.kv_zeroing import install_scheduler
from loramux_server.errors import CannotStart

SERVED_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
"""The paths of vLLM that are served: an allow-list, so endpoints that a later vLLM adds are not exposed by accident."""


class EngineFailed(CannotStart):
    """vLLM refused its configuration, or its processes exited during startup."""


@asynccontextmanager
async def vllm_engine(arguments: Namespace) -> AsyncIterator[AsyncLLM]:
    """Start the engine in its own processes, and stop them when the context exits.

    A thread starts the engine, to keep the event loop responsive. SIGTERM and SIGINT are blocked in that thread, and
    its processes inherit this: a terminal's Ctrl-C and a supervisor's SIGTERM reach the whole process group, and an
    engine that exits would abort the streams that we drain. SIGKILL ends the processes, as in vLLM itself.

    Raises:
        EngineFailed: vLLM refused its configuration, or its processes exited during startup.
    """
    engine = await run_in_daemon_thread(lambda: _start(arguments), name="engine-start")
    try:
        await engine.reset_mm_cache()
        yield engine
    finally:
        engine.shutdown(timeout=0)


def _start(arguments: Namespace) -> AsyncLLM:
    resource_tracker.ensure_running()  # first, because starting it unblocks both signals
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    usage = UsageContext.OPENAI_API_SERVER
    try:
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(usage_context=usage)
        install_scheduler(config.scheduler_config)
        return AsyncLLM.from_vllm_config(vllm_config=config, usage_context=usage)
    except Exception as error:
        raise EngineFailed(f"vLLM could not start: {error}") from error


async def mount_openai(
    app: FastAPI,
    engine: Any,
    directory: Mapping[str, LoRARequest],
    arguments: Namespace,
    dependency: Callable[[Request], Awaitable[None]],
) -> None:
    """Add vLLM's OpenAI handlers to `app`, with `engine` as their client and `directory` for model names.

    `dependency` is a FastAPI dependency of all of them; it runs after the body was parsed.
    """
    await init_app_state(engine, app.state, arguments, await engine.get_supported_tasks())
    app.state.openai_serving_models.lora_requests = directory
    served = _served_routes((chat, completions, responses, messages, tokenize))
    app.include_router(served, dependencies=[Depends(dependency)])
    init_exception_handler(app)


def _served_routes(routers: Iterable[APIRouter]) -> APIRouter:
    """Return one router with the routes in SERVED_PATHS."""
    served = APIRouter()
    served.routes = [
        route for router in routers for route in router.routes if getattr(route, "path", "") in SERVED_PATHS
    ]
    return served
