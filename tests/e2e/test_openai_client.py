"""The official `openai` client, unchanged, against the real engine: on the base and on a fine-tune alike."""

import json
from typing import Any

import openai
import pytest

from tests.conftest import RealServer

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PARIS: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}


@pytest.fixture(params=["base", "support-intent"])
def model(request: pytest.FixtureRequest, real: RealServer) -> str:
    return real.base.name if request.param == "base" else str(request.param)


def is_answer_of(answered: str, model: str) -> bool:
    """Return whether the response's `model` matches the request; for an adapter it names the exact version."""
    return answered == model or answered.startswith(f"{model}@")


async def test_chat(real: RealServer, model: str) -> None:
    answer = await real.client.chat.completions.create(model=model, messages=PARIS, max_tokens=12, temperature=0)
    assert is_answer_of(answer.model, model)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 5
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer._request_id


async def test_an_old_name_stands_for_a_model(real: RealServer, model: str) -> None:
    old = f"ft:gpt-4o-mini-2024-07-18:acme:{model}:abc123"
    await real.http.put(f"/admin/aliases/{old}", json={"target": model})
    asked: Any = {"messages": PARIS, "max_tokens": 12, "temperature": 0}
    answers = [await real.client.chat.completions.create(model=name, **asked) for name in (old, model)]
    assert answers[0].model == old
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    await real.http.delete(f"/admin/aliases/{old}")


async def test_the_base_knows_the_capital_of_france(real: RealServer) -> None:
    answer = await real.client.chat.completions.create(
        model=real.base.name, messages=PARIS, max_tokens=12, temperature=0
    )
    assert "Paris" in str(answer.choices[0].message.content)


async def test_streamed_chat_equals_plain_chat(real: RealServer, model: str) -> None:
    asked: Any = {"model": model, "messages": PARIS, "max_tokens": 12, "temperature": 0}
    plain = await real.client.chat.completions.create(**asked)
    stream = await real.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert all(is_answer_of(chunk.model, model) for chunk in chunks)


async def test_completions_with_stop_logprobs_and_seed(real: RealServer, model: str) -> None:
    asked: Any = {"model": model, "prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 12, "logprobs": 2, "seed": 7}
    first = await real.client.completions.create(**asked, temperature=0.8)
    again = await real.client.completions.create(**asked, temperature=0.8)
    assert first.choices[0].text == again.choices[0].text
    assert first.choices[0].logprobs is not None
    assert first.choices[0].logprobs.top_logprobs
    stopped = await real.client.completions.create(**asked, temperature=0, stop=[","])
    assert "," not in stopped.choices[0].text


async def test_responses_plain_and_streamed(real: RealServer, model: str) -> None:
    answer = await real.client.responses.create(model=model, input="Say hello.", max_output_tokens=8, temperature=0)
    assert is_answer_of(answer.model, model)
    assert answer.output_text
    stream = await real.client.responses.create(
        model=model, input="Say hello.", max_output_tokens=8, temperature=0, stream=True
    )
    events = [event async for event in stream]
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer.output_text


async def test_json_schema_output_fits_the_schema(real: RealServer, model: str) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    answer = await real.client.chat.completions.create(
        model=model, messages=PARIS, max_tokens=100, temperature=0, response_format=wanted
    )
    assert set(json.loads(str(answer.choices[0].message.content))) == {"city"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_tool_call_has_arguments_that_fit_the_tool(real: RealServer, model: str, choice: Any) -> None:
    answer = await real.client.chat.completions.create(
        model=model, messages=PARIS, max_tokens=100, temperature=0, tools=[WEATHER], tool_choice=choice
    )
    assert answer.choices[0].message.tool_calls
    call: Any = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


async def test_several_choices_with_log_probabilities(real: RealServer, model: str) -> None:
    answer = await real.client.chat.completions.create(
        model=model, messages=PARIS, max_tokens=4, n=2, logprobs=True, top_logprobs=3, temperature=1, seed=3
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert len(choice.logprobs.content[0].top_logprobs) == 3


async def test_models_are_listed_and_retrieved(real: RealServer) -> None:
    listed = [model.id async for model in real.client.models.list()]
    assert listed[0] == real.base.name
    assert {"house-tone", "order-json", "support-intent"} <= set(listed)
    assert (await real.client.models.retrieve("order-json")).id == "order-json"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_too_long_prompt_is_reported_before_a_stream_starts(real: RealServer, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await real.client.chat.completions.create(
            model="support-intent", messages=[{"role": "user", "content": "word " * 5000}], stream=stream
        )
    assert caught.value.code == "context_length_exceeded"


async def test_an_unknown_model_is_not_found(real: RealServer) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await real.client.chat.completions.create(model="nobody", messages=PARIS)
    assert caught.value.code == "model_not_found"
