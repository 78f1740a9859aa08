"""How a base would be served, without starting its engine: for `loramux train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.served_rendering import served_rendering
from loramux_server.engine.startup import mount_openai


async def offline_rendering(base: Path, name: str, options: Mapping[str, Any]) -> ChatRendering:
    """Return how a server with these engine options renders conversations.

    Raises:
        EngineArgumentError: an unknown or reserved option, or a value that vLLM refuses.
        ValueError: vLLM can't load the base's configuration or tokenizer.
    """
    arguments, app = engine_arguments(base, name, options), FastAPI()
    await mount_openai(app, FakeEngine(arguments), {}, arguments, dependency=_nothing)
    return served_rendering(app.state.openai_serving_chat)


async def _nothing(_request: Request) -> None:
    pass
