"""Chat completions that no client asked for, by vLLM's own handler, charged to an account of their own."""

from contextlib import nullcontext
from typing import Any
from uuid import uuid4

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_server.engine.admission import AwaitEngine
from loramux_server.engine.answer_text import texts_of_messages
from loramux_server.experiments.assignment import Assignment
from loramux_server.metering.usage_record import Operation, Outcome
from loramux_server.request_context import Meter, RequestContext, current_request


class BackgroundChat:
    """Completes chats outside of any HTTP request; `awake` waits for an engine that is asleep."""

    def __init__(self, meter: Meter, awake: AwaitEngine = nullcontext) -> None:
        self._meter, self._awake = meter, awake
        self.handler: Any = None
        """vLLM's chat handler, once it is mounted."""

    async def complete(
        self,
        request: ChatCompletionRequest,
        *,
        charge_to: str,
        request_id: str | None = None,
        assignment: Assignment | None = None,
    ) -> list[str]:
        """Return the text of each choice that has one; `assignment.failure` is set if there is no answer.

        Raises:
            Exception: any of vLLM's; the request is charged nevertheless.
        """
        own_id = f"background-{uuid4().hex}"
        context = RequestContext(request_id or own_id, Operation.CHAT, self._meter)
        context.charge_to, context.experiment = charge_to, assignment
        plain = request.model_copy(update={"stream": False, "stream_options": None, "request_id": own_id})
        token, outcome = current_request.set(context), Outcome.FAILED
        try:
            async with self._awake():
                response = await self.handler.create_chat_completion(plain)
            choices = getattr(response, "choices", None)
            if choices is not None:
                outcome = Outcome.OK
            texts = texts_of_messages([choice.message.model_dump() for choice in choices or ()])
            if assignment is not None:
                assignment.texts = texts
            return texts
        finally:
            current_request.reset(token)
            context.close(200 if outcome is Outcome.OK else 500, outcome)
