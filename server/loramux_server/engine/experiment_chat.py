"""Answers the chat requests of experiments: each by the variant that it was assigned to, with vLLM's own handler."""

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
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
        response = await _Call(endpoint, request, raw_request, assignment, base_name).answer()
        return _observed(response, request, assignment, experiments)

    return chat


def as_asked_of(variant: Variant, request: ChatCompletionRequest, base_name: str) -> ChatCompletionRequest:
    """Return the request as a variant gets it: another model, and its prompt before the messages."""
    messages = add_prompt(variant.prompt, request.messages)
    return request.model_copy(update={"model": variant.version or base_name, "messages": messages})


@dataclass
class _Call:
    """A request of an experiment to vLLM's endpoint."""

    endpoint: ChatEndpoint
    request: ChatCompletionRequest
    raw_request: Request
    assignment: Assignment
    base_name: str

    async def answer(self) -> Any:
        """Answer by the assigned variant; if the sampled one fails before its first token, by the default one."""
        if self.assignment.variant is self.assignment.experiment.config.default_variant:
            return await self._ask(self.assignment.variant)
        try:
            response = await self._ask(self.assignment.variant)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other variant may be able to answer
            return await self._fall_back(f"{type(error).__name__}: {error}")
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._events(response.body_iterator)
        elif isinstance(response, Response) and response.status_code >= 400:
            return await self._fall_back(_error_message(bytes(response.body)))
        return response

    async def _ask(self, variant: Variant) -> Any:
        return await self.endpoint(as_asked_of(variant, self.request, self.base_name), self.raw_request)

    async def _fall_back(self, reason: str) -> Any:
        self.assignment.failure = reason[:MAX_REASON]
        context = current_request.get()
        context.refusal = None
        context.versions.clear()  # else the version that failed would be checked again
        return await self._ask(self.assignment.experiment.config.default_variant)

    async def _events(self, events: Any) -> AsyncIterator[Any]:
        """Yield the events of a stream, or of the default variant's, if the first event is an error.

        The response has not started then, because the error envelope waits for the first event.
        """
        is_first = True
        try:
            async for event in events:
                if is_first and _text(event).startswith(_ERROR_EVENT):
                    response = await self._fall_back(_error_message(_text(event).removeprefix("data:").encode()))
                    async for other in _events_of(response):
                        yield other
                    return
                is_first = False
                yield event
        finally:
            await _close(events)


async def _events_of(response: Any) -> AsyncIterator[Any]:
    """Yield the events of a stream; of an error response, its body as an event."""
    if not isinstance(response, StreamingResponse):
        yield f"data: {bytes(response.body).decode()}\n\n"
        return
    try:
        async for event in response.body_iterator:
            yield event
    finally:
        await _close(response.body_iterator)


def _text(event: str | bytes | memoryview) -> str:
    return event if isinstance(event, str) else bytes(event).decode(errors="replace")


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
