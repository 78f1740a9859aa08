"""Training's rendering of conversations against vLLM's own handler, for several templates, messages and settings."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer, ChatRendering
from loramux_server.configured_adapters import FRONTEND_DEFAULTS
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.offline_rendering import offline_rendering
from loramux_server.engine.served_rendering import served_rendering
from loramux_server.engine.startup import mount_openai
from tests.helpers.chat_templates import (
    CHATML,
    DATED,
    OPEN_THINK,
    PARTS,
    TEMPLATES,
    THINK_BLOCK,
    TOOL_TEMPLATES,
    write_tokenizer,
)

USER = {"role": "user", "content": "Which?\n"}
SYSTEM = {"role": "system", "content": "  Be brief: "}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThis one."}
THIS_ONE = {"role": "assistant", "content": "This one."}
CHATS = [[USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER], [USER, ANSWER, {"role": "user", "content": "é🙂 <s>"}]]

DEVELOPER = {"role": "developer", "content": "Be kind."}
PARTS_OF_TEXT = [{"type": "text", "text": "Which?"}, {"type": "text", "text": " Or what?"}]
CALL = {"id": "call00001", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Ås", "days": 2}'}}
CALLED: list[dict[str, Any]] = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "call00002"}]},
    {"role": "tool", "tool_call_id": "call00001", "content": '{"rain": true}'},
    {"role": "tool", "tool_call_id": "call00002", "content": ""},
]
BARE_TOOL = {"type": "function", "function": {"name": "bare"}}
TOOL = {
    "function": {
        "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "name": "rain",
        "description": "Rain é",
    },
    "type": "function",
}

OPTIONS = FRONTEND_DEFAULTS | {"max_loras": 1, "max_cpu_loras": 1, "max_model_len": 1024, "dtype": "float32"}
QUICK = {"fingerprint_mode": "none"}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without weights and without a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    vocabulary = write_tokenizer(folder, None)
    shapes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary} | shapes
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024, "eos_token_id": 1}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    return folder


Handler = Callable[..., Any]


@pytest.fixture(scope="session")
def handler(base: Path) -> Handler:
    """Return vLLM's chat handler of a server with these engine options."""

    async def depends(_: Any) -> None:
        pass

    def make(**options: Any) -> Any:
        arguments, app = engine_arguments(base, "tiny", OPTIONS | QUICK | options), FastAPI()
        asyncio.run(mount_openai(app, FakeEngine(arguments), {}, arguments, dependency=depends))
        return app.state.openai_serving_chat

    return make


@pytest.fixture(scope="session")
def one_handler(handler: Handler) -> Any:
    """A handler whose template each test sets."""
    return handler(chat_template=CHATML)


def set_template(chat: Any, template: str | None) -> None:
    chat.chat_template = chat.online_renderer.chat_template = template


def handled(chat: Any, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    """Return the tokens with which the handler would call the engine."""
    request = ChatCompletionRequest(messages=messages, model="tiny", **options)
    _, [prompt] = asyncio.run(chat.online_renderer.render_chat(request))
    return list(prompt["prompt_token_ids"])


def trainers(base: Path, rendering: ChatRendering) -> ChatRenderer:
    """Return the renderer of a trainer process that was given this rendering in its run file."""
    return ChatRenderer(
        AutoTokenizer.from_pretrained(base), ChatRendering.model_validate_json(rendering.model_dump_json())
    )


@pytest.mark.parametrize("name", sorted({*TEMPLATES, "parts"} - {"dated"}))
def test_a_prompt_has_the_tokens_that_the_endpoint_has(base: Path, one_handler: Any, name: str) -> None:
    set_template(one_handler, (TEMPLATES | {"parts": PARTS})[name])
    rendering = served_rendering(one_handler)
    assert rendering.has_content_parts == (name == "parts")
    for chat in CHATS:
        tokens = trainers(base, rendering).prompt_tokens(chat)
        assert tokens == handled(one_handler, chat)
        assert ExampleTokenizer(trainers(base, rendering)).tokenize(chat, THIS_ONE).prompt == tokens


@pytest.mark.parametrize("name", sorted(TOOL_TEMPLATES))
def test_a_prompt_with_tools_has_the_tokens_that_the_endpoint_has(base: Path, one_handler: Any, name: str) -> None:
    set_template(one_handler, TOOL_TEMPLATES[name])
    renderer = trainers(base, served_rendering(one_handler))
    for tools in ([], [BARE_TOOL], [TOOL, BARE_TOOL]):
        for chat in (CALLED, CALLED[:1], [CALLED[0], SYSTEM, *CALLED[1:]]):
            assert renderer.prompt_tokens(chat, tools) == handled(one_handler, chat, tools=tools or None), tools


@pytest.mark.parametrize("template", [CHATML, CHATML + "{# 'developer' #}", PARTS])
@pytest.mark.parametrize(
    "chat",
    [
        [DEVELOPER, USER],
        [USER, DEVELOPER, USER],
        [SYSTEM, USER, ANSWER, DEVELOPER, SYSTEM, USER],
        [SYSTEM | {"content": ""}, DEVELOPER, USER],
        [SYSTEM, USER, SYSTEM, USER | {"name": "Ann"}],
        [SYSTEM, USER | {"content": PARTS_OF_TEXT}],
        [DEVELOPER | {"content": PARTS_OF_TEXT}, SYSTEM, USER, ANSWER, USER | {"content": PARTS_OF_TEXT}],
    ],
)
def test_developer_and_system_messages_have_the_tokens_that_the_endpoint_has(
    base: Path, one_handler: Any, template: str, chat: list[dict[str, Any]]
) -> None:
    set_template(one_handler, template)
    assert trainers(base, served_rendering(one_handler)).prompt_tokens(chat) == handled(one_handler, chat)


def test_a_base_may_have_another_template_for_requests_with_tools(base: Path, one_handler: Any) -> None:
    set_template(one_handler, None)
    tokenizer = one_handler.engine_client.renderer.tokenizer
    tokenizer.chat_template = {"default": CHATML, "tool_use": TOOL_TEMPLATES["qwen"]}
    try:
        rendering = served_rendering(one_handler)
    finally:
        tokenizer.chat_template = None
        set_template(one_handler, CHATML)
    assert rendering.template == CHATML
    assert rendering.with_tools
    assert rendering.with_tools.template == TOOL_TEMPLATES["qwen"]


def test_settings_of_the_template_apply_to_training_too(base: Path, handler: Handler) -> None:
    """T7: the settings can switch thinking off for every request."""
    chat = handler(chat_template=THINK_BLOCK, default_chat_template_kwargs={"enable_thinking": False, "unknown": 1})
    rendering = served_rendering(chat)
    assert rendering.kwargs == {"enable_thinking": False}
    tokens = trainers(base, rendering).prompt_tokens(CHATS[1])
    assert tokens == handled(chat, CHATS[1])
    assert trainers(base, rendering).decode(tokens).endswith("<think>\n\n</think>\n\n")


def test_the_ends_of_answers_are_those_of_the_generation_config(one_handler: Any) -> None:
    assert served_rendering(one_handler).stop_token_ids == (1, 3)


def test_only_training_and_the_evaluation_write_a_fixed_date(base: Path, one_handler: Any) -> None:
    set_template(one_handler, DATED)
    renderer = trainers(base, served_rendering(one_handler))
    fixed = renderer.prompt_tokens(CHATS[0])
    today = handled(one_handler, CHATS[0])
    assert "26 Jul 2024" in renderer.decode(fixed)
    assert "26 Jul 2024" not in renderer.decode(today)


@pytest.mark.parametrize(
    ("parser", "template", "kwargs", "prefix"),
    [
        ("deepseek_r1", OPEN_THINK, {}, "</think>\n\n"),
        ("deepseek_r1", THINK_BLOCK, {}, "<think>\n\n</think>\n\n"),
        ("qwen3", THINK_BLOCK, {}, "<think>\n\n</think>\n\n"),
        ("qwen3", THINK_BLOCK, {"enable_thinking": False}, ""),
    ],
)
def test_an_answer_begins_with_what_the_reasoning_parser_expects(
    handler: Handler, parser: str, template: str, kwargs: dict[str, Any], prefix: str
) -> None:
    """T7, T8: with a reasoning parser, an answer that begins otherwise would be returned as reasoning."""
    options = {"chat_template": template, "default_chat_template_kwargs": kwargs, "reasoning_parser": parser}
    rendering = served_rendering(handler(**options, tool_call_parser=None, enable_auto_tool_choice=False))
    assert (rendering.answer_prefix, rendering.refusal) == (prefix, None)


def test_a_base_without_a_chat_template_is_refused_with_a_way_out(handler: Handler) -> None:
    assert "LORAMUX_ENGINE__CHAT_TEMPLATE" in (served_rendering(handler()).refusal or "")


def test_the_rendering_is_the_same_without_an_engine(base: Path, handler: Handler) -> None:
    options = {"chat_template": THINK_BLOCK, "default_chat_template_kwargs": {"enable_thinking": False}}
    offline = asyncio.run(offline_rendering(base, "tiny", OPTIONS | options))
    assert offline == served_rendering(handler(**options))


def test_a_base_whose_parser_fails_is_served_but_not_trained(one_handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no think tokens")

    set_template(one_handler, CHATML)
    monkeypatch.setattr(one_handler, "_make_parser", fail)
    assert "no think tokens" in (served_rendering(one_handler).refusal or "")
