"""Starts vLLM's engine, and mounts its OpenAI handlers on our application."""

import logging
import signal
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from multiprocessing import resource_tracker
from typing import Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.anthropic.api_router import router as messages
from vllm.entrypoints.openai.chat_completion.api_router import router as chat
from vllm.entrypoints.openai.completion.api_router import router as completions
from vllm.entrypoints.openai.responses.api_router import router as responses
from vllm.entrypoints.serve.tokenize.api_router import router as tokenize
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from loramux_adapters.daemon_thread import run_in_daemon_thread
from loramux_server.engine.beam_search import count_beam_searches_as_one
from loramux_server.engine.experiment_chat import ChatEndpoint
from loramux_server.engine.project_isolation import isolate_stored_responses
from loramux_server.engine.vllm_compat import init_app_state, init_exception_handler
from loramux_server.engine.worker.kv_zeroing import install_scheduler
from loramux_server.errors import SERVER_FAULT, CannotStart, EngineDied, LoramuxError, error_response
from loramux_server.request_context import current_request

logger = logging.getLogger("loramux.engine")

CHAT_PATH = "/v1/chat/completions"
SERVED_PATHS = (
    CHAT_PATH,
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
"""The paths of vLLM that are served: an allow-list, so endpoints that a later vLLM adds are not exposed by accident."""


class ModelNames(Protocol):
    """The names of the served models, aliases among them."""

    def own_name(self, model: str) -> str:
        """Return the target of an alias, or `model` itself."""

    def is_base(self, model: str) -> bool:
        """Whether `model` is the base, by its name or an alias."""


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
    wrap_chat: Callable[[ChatEndpoint], ChatEndpoint] = lambda endpoint: endpoint,
    names: ModelNames | None = None,
) -> None:
    """Add vLLM's OpenAI handlers to `app`, with `engine` as their client and `directory` for model names.

    `names` knows the aliases, None if there are none.

    `dependency` is a FastAPI dependency of all of them; it runs after the body was parsed. `wrap_chat` wraps the
    endpoint of chat completions.
    """
    await init_app_state(engine, app.state, arguments, await engine.get_supported_tasks())
    models = app.state.openai_serving_models
    models.lora_requests, models.model_name = directory, _with_requested_name(models.model_name, names)
    if names is not None:
        models.is_base_model = names.is_base
    for serving in (app.state.openai_serving_chat, app.state.openai_serving_completion):
        count_beam_searches_as_one(serving)
    isolate_stored_responses(app.state.openai_serving_responses)
    served = _served_routes((chat, completions, responses, messages, tokenize), wrap_chat)
    app.include_router(served, dependencies=[Depends(dependency)])
    init_exception_handler(app)
    _answer_for_a_failed_engine(app)


def _answer_for_a_failed_engine(app: FastAPI) -> None:
    """Replace vLLM's handlers of these errors, which need its own HTTP server to end; ours ends by itself."""

    async def died(_: Request, __: Exception) -> Response:
        current_request.get().refusal = error = EngineDied()
        return error_response(error)

    async def failed(_: Request, error: Exception) -> Response:
        logger.error("the engine failed to run the request", exc_info=error)
        return error_response(LoramuxError(SERVER_FAULT))

    app.add_exception_handler(EngineDeadError, died)
    app.add_exception_handler(EngineGenerateError, failed)


def _served_routes(routers: Iterable[APIRouter], wrap_chat: Callable[[ChatEndpoint], ChatEndpoint]) -> APIRouter:
    """Return one router with the routes in SERVED_PATHS."""
    served = APIRouter()
    routes = [route for router in routers for route in router.routes if getattr(route, "path", "") in SERVED_PATHS]
    for route in routes:
        if isinstance(route, APIRoute) and route.path == CHAT_PATH:
            served.add_api_route(
                route.path,
                wrap_chat(route.endpoint),
                methods=list(route.methods),
                dependencies=route.dependencies,
                responses=route.responses,
            )
        else:
            served.routes.append(route)
    return served


def _with_requested_name(
    model_name: Callable[[LoRARequest | None], str], names: ModelNames | None
) -> Callable[[LoRARequest | None], str]:
    """Return the function that names the model in responses: as requested, if that is an alias, or in experiments."""

    def name(lora_request: LoRARequest | None = None) -> str:
        context = current_request.get(None)
        requested = context.model if context is not None else None
        if requested and names is not None and names.own_name(requested) != requested:
            return requested
        experiment = context.experiment if context is not None else None
        return model_name(lora_request) if experiment is None else experiment.model

    return name
