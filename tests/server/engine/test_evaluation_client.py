"""Completions by the fake engine as an evaluation asks for them; tests/e2e runs one on the real engine."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import pytest_asyncio

from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.models import VersionId
from loramux_server.base_model import ResolvedBase
from loramux_server.configured_adapters import FRONTEND_DEFAULTS
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.evaluation_client import EngineEvaluationClient
from tests.helpers.chat_templates import DATED
from tests.helpers.reasoning_base import write_reasoning_base
from tests.helpers.tiny_server import MAX_MODEL_LEN, TinyServer, small_arguments, tiny_server, write_base

CHAT = [{"role": "system", "content": "Intent?"}, {"role": "user", "content": "hello"}]


def client_of(server: TinyServer) -> EngineEvaluationClient:
    evaluator = server.server.job_supervisor.runner.publisher.evaluator
    assert evaluator
    assert isinstance(evaluator.complete, EngineEvaluationClient)
    return evaluator.complete


@pytest_asyncio.fixture
async def tiny(tiny_base: ResolvedBase, tmp_path: Path) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


@pytest.fixture
def ask(tiny: TinyServer) -> EngineEvaluationClient:
    return client_of(tiny)


async def test_base_and_version_are_asked_what_a_user_would_ask(tiny: TinyServer, ask: EngineEvaluationClient) -> None:
    version = VersionId.parse(await tiny.add("tone"))
    base, tuned = await ask(None, CHAT, 9), await ask(version, CHAT, 9)
    assert base.input_tokens == tuned.input_tokens == len("<>Intent?<>hello<>") + len("systemuserassistant") + 2
    assert base.output_tokens == tuned.output_tokens == 9
    assert base.text != tuned.text
    assert base.seconds > 0


@pytest.mark.slow
async def test_nobody_is_charged(tiny: TinyServer, ask: EngineEvaluationClient) -> None:
    await ask(VersionId.parse(await tiny.add("tone")), CHAT, 9)
    assert (await tiny.http.get("/admin/usage")).json()["total"] is None
    assert 'route="adapter"' not in (await tiny.http.get("/metrics")).text.replace("in_flight", "")


async def test_a_version_that_left_the_engine_is_loaded_again_and_let_go(
    tiny: TinyServer, ask: EngineEvaluationClient
) -> None:
    version = VersionId.parse(await tiny.add("tone"))
    await tiny.evict()
    await ask(version, CHAT, 2)
    (resident,) = (await tiny.server.adapter_service.pool.view()).residents
    assert (resident.version, resident.leases) == (version, 0)


async def test_a_refused_question_is_an_error_with_the_endpoints_reason(ask: EngineEvaluationClient) -> None:
    with pytest.raises(EvaluationFailed, match=f"was refused: .*{MAX_MODEL_LEN}"):
        await ask(None, [{"role": "user", "content": "x" * 2 * MAX_MODEL_LEN}], 9)


async def test_a_removed_version_is_an_error(tiny: TinyServer, ask: EngineEvaluationClient) -> None:
    version = VersionId.parse(await tiny.add("tone"))
    await tiny.server.adapter_service.remove(version.name, actor="test")
    with pytest.raises(EvaluationFailed, match=r"was refused: tone@.* was removed"):
        await ask(version, CHAT, 9)


async def test_an_evaluation_samples_with_the_generation_config_as_the_endpoint_does(tmp_path: Path) -> None:
    """T9: an evaluation ignored repetition_penalty in generation_config.json, which /v1 applies."""
    base = write_base(tmp_path / "base")
    config = {"eos_token_id": 0, "repetition_penalty": 1.3, "top_k": 7}
    (base.path / "generation_config.json").write_text(json.dumps(config))
    arguments = small_arguments(base)
    arguments.generation_config = "auto"
    used: list[Any] = []
    async with tiny_server(tmp_path, base, arguments=arguments) as server:
        generate = server.engine.generate

        def recording(prompt: Any, params: Any, *rest: Any, **options: Any) -> Any:
            used.append(params)
            return generate(prompt, params, *rest, **options)

        with patch.object(server.engine, "generate", recording):
            await client_of(server)(None, CHAT, 9)
            messages: Any = CHAT
            await server.client.chat.completions.create(model=base.name, messages=messages, temperature=0, max_tokens=9)
    assert used[0].repetition_penalty == 1.3
    assert str(used[0]) == str(used[1])


async def test_an_evaluation_writes_a_fixed_date_and_sends_no_function_to_the_engine(tmp_path: Path) -> None:
    """With a reasoning parser, the engine's process gets the template's values too."""
    base = ResolvedBase(write_reasoning_base(tmp_path / "base", DATED), "Tiny-Base")
    options = {"max_model_len": 256, "dtype": "float32", "max_cpu_loras": 4, "reasoning_parser": "deepseek_r1"}
    arguments = engine_arguments(base.path, base.name, FRONTEND_DEFAULTS | options)
    used: list[Any] = []
    async with tiny_server(tmp_path, base, arguments=arguments) as server:
        generate = server.engine.generate

        def recording(prompt: Any, *rest: Any, **options: Any) -> Any:
            used.append((server.engine.renderer.tokenizer.decode(prompt["prompt_token_ids"]), options))
            return generate(prompt, *rest, **options)

        with patch.object(server.engine, "generate", recording):
            answer = await client_of(server)(None, CHAT, 9)
            await server.chat(base.name)
    (evaluated, options), *_, (served, _) = used
    assert evaluated.startswith("Today is 26 Jul 2024.")
    assert not served.startswith("Today is 26 Jul 2024.")
    assert "strftime_now" not in options["reasoning_parser_kwargs"]["chat_template_kwargs"]
    assert (answer.text, answer.finish_reason) == ("", "length")  # all of it is reasoning


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CONTEXT, PROMPT = 100, 10


def _max_tokens(request: Any) -> int:
    limit: int = request.__dict__["max_tokens"]  # vLLM warns of it
    return limit


class _Message:
    def __init__(self, **values: Any) -> None:
        self.values = values

    def model_dump(self) -> dict[str, Any]:
        return self.values


class Handler:
    """Writes one character per token, up to the limit of a request."""

    def __init__(self, text: str, *, has_parser: bool = False, **message: Any) -> None:
        self.text, self.has_parser, self.message = text, has_parser, message
        self.asked: list[Any] = []
        self.model_config = SimpleNamespace(max_model_len=CONTEXT)
        self.engine_client = SimpleNamespace(renderer=SimpleNamespace(tokenizer=self))

    def apply_chat_template(self, _: Any, chat_template: str, **__: Any) -> str:
        return chat_template

    async def create_chat_completion(self, request: Any) -> Any:
        self.asked.append(request)
        text = self.text[: _max_tokens(request)]
        reasoning, end, answer = text.rpartition("</think>")
        content = text if not self.has_parser else answer if end else None
        parsed = {"reasoning": reasoning if end else text} if self.has_parser else {}
        reason = "length" if len(text) < len(self.text) else "stop"
        choice = SimpleNamespace(message=_Message(content=content, **parsed, **self.message), finish_reason=reason)
        usage = SimpleNamespace(prompt_tokens=PROMPT, completion_tokens=len(text), prompt_tokens_details=None)
        return SimpleNamespace(choices=[choice], usage=usage)


async def complete(handler: Any, template: str = "?", max_tokens: int = 9, *of_request: Any) -> Any:
    rendering = ChatRendering(template=template, has_reasoning_parser=handler.has_parser)
    return await EngineEvaluationClient(handler, "base", rendering)(None, CHAT, max_tokens, *of_request)


@pytest.mark.parametrize(
    ("handler", "template", "answer"),
    [
        (Handler("<think>why not?</think>red"), "?", "<think>why not?</think>red"),
        (Handler("why not?</think>red"), "?<think>\n", "why not?</think>red"),
        (Handler("<think>why not?</think>red", has_parser=True), "?", "red"),
    ],
)
async def test_a_model_that_reasons_gets_room_to_end_it(handler: Handler, template: str, answer: str) -> None:
    """Point 4: cut off within its reasoning, a base had no answer to be scored."""
    completion = await complete(handler, template)
    assert completion.text == answer
    assert [_max_tokens(request) for request in handler.asked] == [9, CONTEXT - PROMPT]


@pytest.mark.parametrize(
    ("handler", "template"),
    [(Handler("a long answer"), "?"), (Handler("red"), "?<think>"), (Handler("<think></think>red"), "?")],
)
async def test_a_model_whose_answer_has_all_the_room_it_may_have_is_asked_once(handler: Handler, template: str) -> None:
    await complete(handler, template, max_tokens=20 if "think" in handler.text else 9)
    assert len(handler.asked) == 1


@pytest.mark.parametrize("has_parser", [False, True])
async def test_an_answer_is_not_cut_by_the_reasoning_before_it(has_parser: bool) -> None:
    handler = Handler("<think>short</think>the long expected answer", has_parser=has_parser)
    completion = await complete(handler, "?", max_tokens=len("the long expected answer") + 8)
    assert completion.text.endswith("the long expected answer")
    assert len(handler.asked) == 2


async def test_reasoning_that_never_ends_is_no_answer() -> None:
    completion = await complete(Handler("red " * 50), "?<think>")
    assert completion.text.startswith("<think>red")
    assert completion.finish_reason == "length"


async def test_tools_are_sent_and_calls_are_the_answer() -> None:
    handler = Handler("", tool_calls=[CALL])
    completion = await complete(handler, "?", 9, [TOOL])
    assert completion.text == '{"tool_calls": [{"name": "f", "arguments": {"a": 1}}]}'
    await complete(handler, "?", 9, [TOOL], False)
    assert [request.tools[0].function.name for request in handler.asked] == ["f", "f"]
    assert [request.parallel_tool_calls for request in handler.asked] == [True, False]
    assert (await complete(Handler("red"))).text == "red"
