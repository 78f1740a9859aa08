"""System messages inside of conversations in requests to /v1/messages, for adapters with a chat template of their own.

vLLM moves them to the beginning if the base's template refuses them elsewhere. For an adapter with a template of its
own, this template decides.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from loramux_server.engine.adapter_templates import AdapterTemplates
from loramux_server.engine.vllm_compat import CONVERT_MESSAGES
from loramux_server.request_context import current_request

_HANDLERS = ("create_messages", "count_tokens")


def place_system_messages(messages: Any, templates: AdapterTemplates) -> None:
    """Let the template of a request's version decide where vLLM's handler of /v1/messages puts system messages."""
    as_base = getattr(messages, CONVERT_MESSAGES)

    def convert(request: Any, *, merge_inline_system: bool, **options: Any) -> Any:
        needs_first = current_request.get().needs_system_first
        merge = merge_inline_system if needs_first is None else needs_first
        return as_base(request, merge_inline_system=merge, **options)

    setattr(messages, CONVERT_MESSAGES, convert)
    for name in _HANDLERS:
        setattr(messages, name, _asking_template(getattr(messages, name), messages.models.lora_requests, templates))


def _asking_template(
    handler: Callable[..., Awaitable[Any]], directory: Any, templates: AdapterTemplates
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(handler)
    async def handle(request: Any, *rest: Any) -> Any:
        template = templates.of_request() if request.model in directory else None  # the first look resolves the name
        if template is not None:
            current_request.get().needs_system_first = (await template.features()).needs_system_first
        return await handler(request, *rest)

    return handle
