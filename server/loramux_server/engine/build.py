"""vLLM, embedded once: the engine from its arguments, and its OpenAI handlers on an application of ours."""

from argparse import Namespace
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.anthropic.api_router import router as messages
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.api_router import router as chat
from vllm.entrypoints.openai.completion.api_router import router as completions
from vllm.entrypoints.openai.responses.api_router import router as responses
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.tokenize.api_router import router as tokenize
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

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


@asynccontextmanager
async def vllm_engine(arguments: Namespace) -> AsyncIterator[AsyncLLM]:
    """Start the engine in a process of its own, and stop it at the end, whatever the end is."""
    config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    engine = AsyncLLM.from_vllm_config(vllm_config=config, usage_context=UsageContext.OPENAI_API_SERVER)
    try:
        await engine.reset_mm_cache()
        yield engine
    finally:
        engine.shutdown(timeout=0)


async def mount_openai(app: FastAPI, engine: Any, directory: Mapping[str, LoRARequest], arguments: Namespace) -> None:
    """Serve vLLM's own OpenAI handlers from `app`, on `engine`, with model names looked up in `directory`."""
    await init_app_state(engine, app.state, arguments, await engine.get_supported_tasks())
    app.state.openai_serving_models.lora_requests = directory
    app.include_router(_served((chat, completions, responses, messages, tokenize)))
    init_exception_handler(app)


def _served(routers: Iterable[APIRouter]) -> APIRouter:
    """One router with the operations that are served, out of all that vLLM's have."""
    served = APIRouter()
    served.routes = [route for router in routers for route in router.routes if getattr(route, "path", "") in OPERATIONS]
    return served
