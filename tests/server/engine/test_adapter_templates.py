"""Requests for an adapter with a chat template of its own, by vLLM's handlers: as on a server with that template."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import vllm.tokenizers.hf as vllm_tokenizers
from fastapi import FastAPI
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest
from vllm.exceptions import VLLMValidationError

from loramux_adapters.chat_templates.renderer import TemplateRenderer
from loramux_adapters.finetuning.chat_rendering import FIXED_DATE
from loramux_adapters.models import VersionId
from loramux_server.configured_adapters import FRONTEND_DEFAULTS
from loramux_server.engine import adapter_templates
from loramux_server.engine.adapter_templates import AdapterTemplates, use_adapter_templates
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.startup import mount_openai
from loramux_server.request_context import CompositeMeter, RequestContext, current_request
from tests.helpers.chat_templates import BRACKETS, CHATML, DATED, PARTS, TEMPLATES, THINK_BLOCK, write_tokenizer

T = TypeVar("T")
USER = {"role": "user", "content": "Which?\n"}
SYSTEM = {"role": "system", "content": "  Be brief: "}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThis one."}
PARTED = {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two é🙂"}]}
DEVELOPER = {"role": "developer", "content": "Dev"}
CHATS = [[USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER], [PARTED, ANSWER, PARTED], [DEVELOPER, USER]]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TOOLS = "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}" + CHATML
KNOWS_DEVELOPER = "{% if messages[0].role == 'developer' %}!{% endif %}" + CHATML
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tools": [TOOL]},
    {"chat_template_kwargs": {"enable_thinking": False, "unknown": [1, {"a": None}]}},
    {"add_generation_prompt": False, "continue_final_message": True},
    {"documents": [{"title": "T", "text": "x"}]},
]
TEMPLATES_HERE = TEMPLATES | {"parts": PARTS, "tools": TOOLS, "developer": KNOWS_DEVELOPER}

OURS = FRONTEND_DEFAULTS | {"max_loras": 1, "max_cpu_loras": 1, "max_model_len": 512, "dtype": "float32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without weights, whose chat template is BRACKETS."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    vocabulary = write_tokenizer(folder, BRACKETS)
    shapes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary} | shapes
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512, "eos_token_id": 1}))
    return folder


def handler(base: Path) -> Any:
    async def depends(_: Any) -> None:
        pass

    arguments, app = engine_arguments(base, "tiny", OURS | {"fingerprint_mode": "none"}), FastAPI()
    asyncio.run(mount_openai(app, FakeEngine(arguments), {}, arguments, dependency=depends))
    return app.state.openai_serving_chat


@pytest.fixture(scope="module")
def stock(base: Path) -> Any:
    """vLLM's handler as it is; each test sets its template, as `--chat-template` does."""
    return handler(base)


@dataclass
class Versions:
    """Stored versions, by NAME@DIGEST."""

    folder: Path
    known: dict[str, Any] = field(default_factory=dict)

    def add(self, template: str | None) -> VersionId:
        digest = f"{len(self.known):012x}"
        (self.folder / digest).mkdir()
        files = {}
        if template is not None:
            (self.folder / digest / "chat_template.jinja").write_bytes(template.encode())
            files["chat_template.jinja"] = SimpleNamespace(sha256=sha256(template.encode()).hexdigest())
        version = VersionId.parse(f"adapter@{digest}")
        self.known[str(version)] = SimpleNamespace(manifest=SimpleNamespace(files=files))
        return version

    def version(self, name: str) -> Any:
        return self.known.get(name)

    def path(self, version: VersionId) -> Path:
        return self.folder / version.digest


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def ours(base: Path, versions: Versions) -> Any:
    """vLLM's handler with the templates of adapters."""
    chat = handler(base)
    use_adapter_templates(chat, AdapterTemplates(versions))
    return chat


@contextmanager
def request_for(version: VersionId | None) -> Iterator[None]:
    context = RequestContext("r", operation=None, meter=CompositeMeter(()))
    if version is not None:
        context.versions["name"] = version
    token = current_request.set(context)
    try:
        yield
    finally:
        current_request.reset(token)


async def rendered(chat: Any, messages: Any, **options: Any) -> list[int] | str:
    """Return the tokens with which the handler would call the engine, or why it refuses."""
    request = ChatCompletionRequest(messages=messages, model="tiny", **options)
    try:
        _, [prompt] = await chat.online_renderer.render_chat(request)
    except VLLMValidationError as error:
        return str(error)
    return list(prompt["prompt_token_ids"])


def run(work: Awaitable[T], version: VersionId | None = None) -> T:
    with request_for(version):
        return asyncio.run(_wait(work))


async def _wait(work: Awaitable[T]) -> T:
    return await work


@pytest.mark.parametrize("name", sorted(TEMPLATES_HERE))
def test_an_adapters_template_gives_the_tokens_of_a_server_with_this_template(
    stock: Any, ours: Any, versions: Versions, name: str
) -> None:
    """A10."""
    template = TEMPLATES_HERE[name]
    stock.chat_template = stock.online_renderer.chat_template = template
    version = versions.add(template)
    for chat in CHATS:
        for options in OPTIONS:
            assert run(rendered(ours, chat, **options), version) == run(rendered(stock, chat, **options))


def test_all_other_routes_are_rendered_as_before(stock: Any, ours: Any, versions: Versions) -> None:
    stock.chat_template = stock.online_renderer.chat_template = None
    own, without = versions.add(CHATML), versions.add(None)
    as_base = run(rendered(stock, CHATS[2]))
    assert run(rendered(ours, CHATS[2]), own) != as_base
    assert run(rendered(ours, CHATS[2]), without) == as_base
    assert run(rendered(ours, CHATS[2])) == as_base


def test_a_template_that_refuses_a_conversation_says_so(ours: Any, versions: Versions) -> None:
    version = versions.add("{{ raise_exception('no system message') }}")
    assert run(rendered(ours, CHATS[1]), version) == "no system message"


def test_what_a_template_quotes_is_in_the_answer_and_not_in_the_log(
    ours: Any, versions: Versions, caplog: pytest.LogCaptureFixture
) -> None:
    """A10: it may quote the client's messages."""
    version = versions.add("{{ raise_exception(messages[0].content) }}")
    vllm = logging.getLogger("vllm")  # it has handlers of its own once vLLM has configured it
    vllm.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG, "vllm"):
            assert run(rendered(ours, [{"role": "user", "content": "secret"}]), version) == "secret"
    finally:
        vllm.removeHandler(caplog.handler)
    assert "secret" not in caplog.text
    assert "the adapter's chat template failed" in caplog.text


def test_a_text_that_no_context_can_hold_is_refused_before_it_is_tokenized(ours: Any, versions: Versions) -> None:
    """A10: /tokenize has no limit of its own, and would stop the server for seconds."""
    version = versions.add("{{ 'a' * 7000000 }}" + CHATML)
    request = TokenizeChatRequest(messages=[USER], model="tiny")
    with request_for(version), pytest.raises(VLLMValidationError, match=r"70000\d\d characters, and at most 6656 are"):
        asyncio.run(
            ours.online_renderer.preprocess_chat(
                request, request.messages, default_template=None, default_template_content_format="auto",
                default_template_kwargs={},
            )
        )  # fmt: skip


def test_the_fixed_date_of_evaluations_reaches_an_adapters_template(ours: Any, versions: Versions) -> None:
    version, fixed = versions.add(DATED), {"strftime_now": FIXED_DATE.strftime}
    tokens = run(rendered(ours, [USER], chat_template_kwargs=fixed), version)
    text = ours.renderer.tokenizer.decode(tokens)
    assert "26 Jul 2024" in text


def test_a_request_brings_no_template(ours: Any, versions: Versions) -> None:
    with request_for(versions.add(CHATML)):
        request = ChatCompletionRequest(messages=[USER], model="tiny", chat_template="x")
        assert "trust" in asyncio.run(ours.online_renderer.render_chat(request)).error.message
        request = ChatCompletionRequest(messages=[USER], model="tiny", chat_template_kwargs={"chat_template": "x"})
        assert "trust" in asyncio.run(ours.online_renderer.render_chat(request)).error.message


def test_a_request_can_not_replace_the_function_that_renders(ours: Any, versions: Versions) -> None:
    version = versions.add(THINK_BLOCK)
    assert isinstance(run(rendered(ours, [USER], chat_template_kwargs={"render_adapter_template": "x"}), version), list)


@pytest.mark.slow
def test_a_slow_template_keeps_no_other_route_waiting(
    ours: Any, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A10: the renderer's thread, which is one for all routes, stays free."""
    monkeypatch.setattr(adapter_templates, "TemplateRenderer", partial(TemplateRenderer, cpu_seconds=0.4))
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    text = "{% if messages[0].content == 'slow' %}" + loop + "{% endif %}" + CHATML
    slow, other = versions.add(text), versions.add(PARTS)
    for version in (slow, other):
        run(rendered(ours, [USER]), version)  # their processes have started

    async def both() -> list[str]:
        order: list[str] = []

        async def ask(name: str, version: VersionId | None, content: str) -> None:
            with request_for(version):
                result = await rendered(ours, [{"role": "user", "content": content}])
            order.append(name if isinstance(result, list) else result)

        tasks = [asyncio.create_task(ask("slow", slow, "slow"))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(ask(n, v, "x")) for n, v in (("base", None), ("other", other))]
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(both())
    assert set(order[:2]) == {"base", "other"}
    assert "more than 0.4 s" in order[2]


@pytest.mark.slow
def test_templates_that_are_rendered_hold_no_copy_of_the_tokenizer(
    ours: Any, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A10: vLLM makes another copy, of many megabytes, for each request that finds none."""
    loop = "{% for i in range(99999) %}{% for j in range(4) %}{% endfor %}{% endfor %}"
    many = [versions.add(f"{number}" + loop + CHATML) for number in range(4)]

    def fail(_: object) -> None:
        raise AssertionError("the tokenizer was copied")

    async def ask(version: VersionId | None) -> list[int] | str:
        with request_for(version):
            return await rendered(ours, [USER])

    async def together() -> list[list[int] | str]:
        return await asyncio.gather(*(ask(version) for version in (*many, None)))

    asyncio.run(together())
    monkeypatch.setattr(vllm_tokenizers.copy, "deepcopy", fail)
    assert all(isinstance(tokens, list) for tokens in asyncio.run(together()))


def test_a_template_whose_syntax_vllm_would_look_into_for_ever_is_rendered(ours: Any, versions: Versions) -> None:
    """A10: vLLM follows assignments from name to name, here in a circle."""
    circle = "{% set a = messages %}{% set b = a %}{% set a = b %}"
    assert run(rendered(ours, CHATS[2]), versions.add(circle + CHATML)) == run(
        rendered(ours, CHATS[2]), versions.add(CHATML)
    )


def test_a_template_that_was_changed_in_the_store_is_not_used(ours: Any, versions: Versions) -> None:
    version = versions.add(CHATML + "changed")
    (versions.path(version) / "chat_template.jinja").write_text("evil")
    assert "was changed" in str(run(rendered(ours, [USER]), version))


@pytest.mark.slow
def test_more_templates_than_processes_are_all_rendered(
    ours: Any, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_templates, "MAX_PROCESSES", 2)
    many = [versions.add(f"{number}" + CHATML) for number in range(4)]
    results: list[Any] = [run(rendered(ours, [USER]), version) for version in (*many, *many)]
    assert all(isinstance(result, list) for result in results)
    assert len({tuple(result) for result in results}) == len(many)


def test_equal_templates_share_a_process(versions: Versions) -> None:
    templates = AdapterTemplates(versions)
    assert templates.of(versions.add(CHATML)) is templates.of(versions.add(CHATML))
    assert templates.of(versions.add(None)) is None
    assert templates.of(VersionId.parse("unknown@0123456789ab")) is None
