"""The chat endpoint of an experiment, around an endpoint that does as it is told."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi.responses import JSONResponse, StreamingResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_server.engine.experiment_chat import as_asked_of, with_experiments
from loramux_server.experiments.assignment import Assignment
from loramux_server.experiments.models import ScorerQuality
from loramux_server.metering.usage_record import Operation
from loramux_server.request_context import RequestContext, current_request
from tests.helpers.asgi import RecordingMeter
from tests.helpers.experiment_records import BASELINE_CONFIG, OLD, experiment_of

ERROR = {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}]}
CONFIG = BASELINE_CONFIG.model_copy(update={"quality": ScorerQuality(scorer={"type": "style"})})


class Stream:
    """Events, and whether their generator was closed."""

    def __init__(self, *events: str) -> None:
        self.events, self.is_closed = events, False

    async def __call__(self) -> AsyncIterator[str]:
        try:
            for event in self.events:
                yield event
        finally:
            self.is_closed = True


class Endpoint:
    """Answers each model as it is told; keeps the models that were asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, list[str]()

    async def __call__(self, request: ChatCompletionRequest, raw_request: Any) -> Any:
        self.asked.append(str(request.model))
        answer = self.answers["base" if request.model == "base" else "adapter"]
        if isinstance(answer, Exception):
            raise answer
        return StreamingResponse(answer(), media_type="text/event-stream") if isinstance(answer, Stream) else answer


class Experiments:
    """Assigns all requests to one variant."""

    def __init__(self, variant: str) -> None:
        experiment = experiment_of(CONFIG)
        chosen = CONFIG.reference if variant == "baseline" else CONFIG.challenger
        self.assignment, self.answered_requests = Assignment(experiment, chosen, "unit", "tone"), 0

    def assign(self, _model: str, _context: RequestContext) -> Assignment:
        return self.assignment

    def answered(self, _assignment: Assignment, _request: Any) -> None:
        self.answered_requests += 1


@pytest.fixture(autouse=True)
def context() -> Iterator[RequestContext]:
    context = RequestContext("id", Operation.CHAT, RecordingMeter())
    token = current_request.set(context)
    yield context
    current_request.reset(token)


async def ask(endpoint: Endpoint, experiments: Experiments) -> Any:
    request = ChatCompletionRequest(model="tone", messages=[{"role": "user", "content": "question"}])
    return await with_experiments(endpoint, experiments, "base")(request, None)


async def body_of(response: Any) -> str:
    if isinstance(response, StreamingResponse):
        return "".join([str(event) async for event in response.body_iterator])
    return bytes(response.body).decode()


async def test_the_default_variant_is_asked_for_its_version_and_its_errors_are_its_own() -> None:
    endpoint, experiments = Endpoint(adapter=JSONResponse(ERROR, 400)), Experiments("adapter")
    response = await ask(endpoint, experiments)
    assert (response.status_code, endpoint.asked) == (400, [OLD])
    assert (experiments.assignment.failure, experiments.assignment.texts) == (None, None)
    with pytest.raises(ValueError, match="broken"):
        await ask(Endpoint(adapter=ValueError("broken")), experiments)


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (JSONResponse(ERROR, 400), "too long"),
        (JSONResponse(["odd"], 500), "an error without a message"),
        (ValueError("no"), "ValueError: no"),
    ],
)
async def test_a_sampled_variant_that_fails_is_replaced(failing: Any, reason: str, context: RequestContext) -> None:
    endpoint, experiments = Endpoint(base=failing, adapter=JSONResponse(ANSWER)), Experiments("baseline")
    response = await ask(endpoint, experiments)
    assert (response.status_code, endpoint.asked) == (200, ["base", OLD])
    assert experiments.assignment.failure == reason
    assert context.refusal is None


async def test_a_sampled_stream_that_begins_with_an_error_is_replaced_and_closed() -> None:
    failing = Stream('data: {"error": {"message": "no capacity"}}\n\n', "data: [DONE]\n\n")
    answer = Stream("data: {}\n\n", "data: [DONE]\n\n")
    endpoint, experiments = Endpoint(base=failing, adapter=answer), Experiments("baseline")
    assert await body_of(await ask(endpoint, experiments)) == "".join(answer.events)
    assert experiments.assignment.failure == "no capacity"
    assert experiments.assignment.header == "exp_1/adapter; assigned=baseline"
    assert (failing.is_closed, answer.is_closed) == (True, True)


async def test_an_error_after_the_first_event_reaches_the_client() -> None:
    failing = Stream("data: {}\n\n", 'data: {"error": {"message": "late"}}\n\n')
    endpoint, experiments = Endpoint(base=failing), Experiments("baseline")
    assert "late" in await body_of(await ask(endpoint, experiments))
    assert (endpoint.asked, experiments.answered_requests) == (["base"], 0)


async def test_if_both_fail_before_a_stream_the_client_gets_the_error_as_an_event() -> None:
    failing = Stream('data: {"error": {"message": "no capacity"}}\n\n')
    endpoint, experiments = Endpoint(base=failing, adapter=JSONResponse(ERROR, 400)), Experiments("baseline")
    assert (await body_of(await ask(endpoint, experiments))).startswith('data: {"error"')


async def test_the_text_of_an_answer_is_kept_for_its_score() -> None:
    experiments = Experiments("baseline")
    await ask(Endpoint(base=JSONResponse(ANSWER)), experiments)
    assert (experiments.assignment.texts, experiments.assignment.question) == (["hello"], "question")
    assert experiments.answered_requests == 1


async def test_a_client_that_leaves_closes_the_run_and_nothing_is_scored() -> None:
    stream = Stream('data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n', "data: [DONE]\n\n")
    experiments = Experiments("baseline")
    response = await ask(Endpoint(base=stream), experiments)
    events = response.body_iterator
    await anext(events)
    await events.aclose()
    assert (stream.is_closed, experiments.assignment.texts, experiments.answered_requests) == (True, None, 0)


async def test_everything_else_of_a_request_is_kept_and_its_messages_can_be_read_again() -> None:
    """vLLM reads the messages for each variant: a one-time iterator would leave out tool calls the second time."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    request = ChatCompletionRequest.model_validate(
        {
            "model": "tone",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "question"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": "42"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "n": 2,
            "stream": True,
            "max_tokens": 7,
        }
    )
    for _ in range(2):
        asked = as_asked_of(CONFIG.challenger, request, "base")
        assert asked.messages[0]["content"] == [{"type": "text", "text": "question"}]
        assert list(asked.messages[1]["tool_calls"]) == [call]
        changed = {"model", "messages"}
        assert asked.model_dump(exclude=changed) == request.model_dump(exclude=changed)
    assert as_asked_of(CONFIG.reference, request, "base").model == "base"
