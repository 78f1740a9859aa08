"""Chat completions for the evaluation at the end of a fine-tuning job: by the endpoint's own handler, without HTTP."""

import copy
import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.items import Chat, Tools
from loramux_adapters.evaluation.reasoning import END, OPENING, after_reasoning
from loramux_adapters.finetuning.chat_rendering import FIXED_DATE, ChatRenderer, ChatRendering
from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion
from loramux_adapters.models import VersionId
from loramux_server.engine.chat_tokens import MAX_REASONING_TOKENS
from loramux_server.request_context import CompositeMeter, RequestContext, current_request

_CLOCK = "strftime_now"
"""The function by which a template writes today's date."""


class EngineEvaluationClient:
    """Completes chats by vLLM's handler of /v1/chat/completions, so with everything that a request of a user gets.

    That is the chat template, the generation config, the reasoning parser and the context's limit. Differences: nobody
    is charged, nothing is counted, and a template that writes today's date writes a fixed one.
    """

    def __init__(self, chat: Any, base_name: str, rendering: ChatRendering) -> None:
        self._chat = copy.copy(chat)
        self._chat._engine_chat_template_kwargs = _without_clock
        self._base_name = base_name
        self._renderer = ChatRenderer(chat.engine_client.renderer.tokenizer, rendering)
        self._template_kwargs = {_CLOCK: FIXED_DATE.strftime} if _CLOCK in (rendering.template or "") else None
        self._numbers = count()

    async def __call__(
        self,
        version: VersionId | None,
        chat: Chat,
        max_tokens: int,
        tools: Tools = (),
        parallel_tool_calls: bool = True,
    ) -> Completion:
        """Return the greedy completion of `chat` by the version, or by the base where `version` is None.

        A model that needs some of `max_tokens` for reasoning, and all in all more, is asked again, with room for it.

        Raises:
            EvaluationFailed: the version can't be loaded, or the endpoint refused the chat.
        """
        request = ChatCompletionRequest(
            messages=list(chat),
            tools=list(tools) or None,
            parallel_tool_calls=parallel_tool_calls,
            temperature=0.0,
            chat_template_kwargs=self._template_kwargs,
        )
        completion, has_reasoned = await self._complete(version, request, max_tokens)
        left = self._chat.model_config.max_model_len - completion.input_tokens - max_tokens
        room = min(MAX_REASONING_TOKENS, left)
        if completion.finish_reason != "length" or not has_reasoned or room <= 0:
            return completion
        completion, _ = await self._complete(version, request, max_tokens + room)
        return completion

    async def _complete(
        self, version: VersionId | None, request: ChatCompletionRequest, max_tokens: int
    ) -> tuple[Completion, bool]:
        """Return the completion, and whether some of its tokens are reasoning."""
        context = RequestContext(f"evaluation-{next(self._numbers)}", operation=None, meter=CompositeMeter(()))
        model = self._base_name
        if version is not None:
            model = str(version)
            context.versions[model] = version
        # vLLM's handler changes the messages of a request.
        changes = {"model": model, "max_tokens": max_tokens, "request_id": context.request_id}
        request = request.model_copy(update=changes, deep=True)
        started, token = time.monotonic(), current_request.set(context)
        try:
            response = await self._chat.create_chat_completion(request)
        except Exception as error:  # of vLLM's many types: a prompt longer than the context, a version that is gone
            raise EvaluationFailed(_reason(context, str(error))) from error
        finally:
            current_request.reset(token)
        if refused := getattr(response, "error", None):
            raise EvaluationFailed(_reason(context, refused.message))
        return self._completion(response, time.monotonic() - started)

    def _completion(self, response: Any, seconds: float) -> tuple[Completion, bool]:
        [choice] = response.choices
        message = choice.message.model_dump()
        text = answer_text(message)
        is_unended = choice.finish_reason == "length" and END not in text
        if is_unended and not self._renderer.rendering.has_reasoning_parser and self._renderer.opens_reasoning:
            text = OPENING + text
        has_reasoned = bool(message.get("reasoning")) or after_reasoning(text) != text
        return _completion(response, text, seconds), has_reasoned


def _completion(response: Any, text: str, seconds: float) -> Completion:
    [choice] = response.choices
    usage = response.usage
    details = usage.prompt_tokens_details  # only if the engine was told to give them
    return Completion(
        text,
        usage.prompt_tokens,
        usage.completion_tokens,
        seconds,
        choice.finish_reason,
        details and details.cached_tokens,
    )


def _reason(context: RequestContext, message: str) -> str:
    return f"A question of the comparison was refused: {context.refusal.message if context.refusal else message}"


def _without_clock(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template's values that the engine gets too: its process can't receive a function."""
    return {name: value for name, value in kwargs.items() if name != _CLOCK}
