"""Answers the chat requests of experiments: each by the variant that it was assigned to, with vLLM's own handler."""

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_server.engine.answer_text import TextCollector, question_of, texts_of
from loramux_server.experiments.assignment import Assignment, add_prompt
from loramux_server.experiments.models import FeedbackQuality, Variant
from loramux_server.request_context import RequestContext, current_request

ChatEndpoint = Callable[..., Awaitable[Any]]

MAX_REASON = 200
_ERROR_EVENT = 'data: {"error"'


class ChatExperiments(Protocol):
    """The experiments of a server, as the chat endpoint sees them."""

    def assign(self, model: str, context: RequestContext) -> Assignment | None:
        """Return the assignment of a request for `model`, None if it is part of no experiment."""

    def answered(self, assignment: Assignment, request: ChatCompletionRequest) -> None:
        """Note that a client gets the complete answer of the default variant to `request`."""


def with_experiments(endpoint: ChatEndpoint, experiments: ChatExperiments, base_name: str) -> ChatEndpoint:
    """Wrap vLLM's chat endpoint: before it renders a request, model and messages become those of a variant."""

    @functools.wraps(endpoint)
    async def chat(request: ChatCompletionRequest, raw_request: Request) -> Any:
        context = current_request.get()
        assignment = experiments.assign(request.model or "", context)
        if assignment is None:
            return await endpoint(request, raw_request)
        context.experiment = assignment
        response = await _answer(endpoint, request, raw_request, assignment, base_name)
        return _observed(response, request, assignment, experiments)

    return chat


def as_asked_of(variant: Variant, request: ChatCompletionRequest, base_name: str) -> ChatCompletionRequest:
    """Return the request as a variant gets it: another model, and its prompt before the messages."""
    messages = add_prompt(variant.prompt, request.messages)
    return request.model_copy(update={"model": variant.version or base_name, "messages": messages})


async def _answer(
    endpoint: ChatEndpoint, request: ChatCompletionRequest, raw_request: Request, assignment: Assignment, base_name: str
) -> Any:
    """Answer by the assigned variant; if the sampled one fails before its first token, by the default one."""
    default = assignment.experiment.config.default_variant
    if assignment.variant is default:
        return await endpoint(as_asked_of(default, request, base_name), raw_request)
    try:
        response = await endpoint(as_asked_of(assignment.variant, request, base_name), raw_request)
        response, reason = await _failure(response)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other variant may be able to answer
        reason = f"{type(error).__name__}: {error}"
    if reason is None:
        return response
    assignment.failure = reason[:MAX_REASON]
    context = current_request.get()
    context.refusal = None
    context.versions.clear()  # else the version that failed would be checked again
    return await endpoint(as_asked_of(default, request, base_name), raw_request)


async def _failure(response: Any) -> tuple[Any, str | None]:
    """Return the response, and why it is an error; of a stream, its first event says it."""
    if not isinstance(response, StreamingResponse):
        failed = isinstance(response, Response) and response.status_code >= 400
        return response, _error_message(bytes(response.body)) if failed else None
    events = aiter(response.body_iterator)
    first = await anext(events, None)
    text = first if isinstance(first, str) else bytes(first or b"").decode(errors="replace")
    if text.startswith(_ERROR_EVENT):
        return response, _error_message(text.removeprefix("data:").encode())
    response.body_iterator = _after(first, events)
    return response, None


async def _after(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        if first is not None:
            yield first
        async for event in rest:
            yield event
    finally:
        await _close(rest)


def _observed(
    response: Any, request: ChatCompletionRequest, assignment: Assignment, experiments: ChatExperiments
) -> Any:
    """Keep the text of the answer for its score, if there is one; a stream's as it passes."""
    if isinstance(assignment.experiment.config.quality, FeedbackQuality) or assignment.failure is not None:
        return response
    assignment.question = question_of(request.messages)
    if isinstance(response, StreamingResponse):
        response.body_iterator = _collected(response.body_iterator, request, assignment, experiments)
    elif isinstance(response, Response) and response.status_code < 400:
        assignment.texts = texts_of(bytes(response.body))
        experiments.answered(assignment, request)
    return response


async def _collected(
    events: Any, request: ChatCompletionRequest, assignment: Assignment, experiments: ChatExperiments
) -> AsyncIterator[Any]:
    collector = TextCollector()
    try:
        async for event in events:
            collector.add(event)
            yield event
    finally:
        await _close(events)
    if collector.is_complete:
        assignment.texts = collector.texts
        experiments.answered(assignment, request)


async def _close(events: Any) -> None:
    """Close a generator, so that its run in the engine ends with it."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "an error without a message"
