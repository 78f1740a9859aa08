"""What adapters' templates rely on: rendering as transformers does, and vLLM's questions about a template."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import vllm.renderers.hf as vllm_hf
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

from loramux_adapters.chat_templates.errors import RenderingError
from loramux_adapters.chat_templates.renderer import TemplateRenderer
from loramux_server.engine.adapter_templates import _stand_in
from tests.helpers.chat_templates import PARTS, TEMPLATES

pytestmark = pytest.mark.slow

USER = {"role": "user", "content": "Which <one>?\n"}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThis one, é🙂."}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"where": "é"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "look", "content": '{"found": 1}', "tool_call_id": "1"}
CHATS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": " Be brief. "}, USER],
    [USER, ANSWER, USER],
    [USER, CALLING, RESULT],
    [{"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]}],
]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]},
    },
}
VALUES: list[dict[str, Any]] = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False, "tools": [TOOL]},
    {"add_generation_prompt": True, "tools": [TOOL], "enable_thinking": False},
]
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def _templates() -> Iterator[tuple[str, str]]:
    """Yield the templates of known models that the library trl has, and our own."""
    yield from (TEMPLATES | {"parts": PARTS}).items()
    pytest.importorskip("trl")
    for file in sorted((files("trl") / "chat_templates").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jinja"):
            yield file.name, file.read_text(encoding="utf-8")


KNOWN = dict(_templates())


def by_transformers(template: str, messages: list[dict[str, Any]], values: dict[str, Any]) -> str:
    try:
        [text], _ = render_jinja_template([messages], chat_template=template, **SPECIAL_TOKENS, **values)
    except TemplateError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - templates raise anything for contents of another form
        return f"failed: {type(error).__name__}"
    return str(text)


def by_us(renderer: TemplateRenderer, messages: list[dict[str, Any]], values: dict[str, Any]) -> str:
    given = {"tools": None, "documents": None} | SPECIAL_TOKENS | values
    try:
        return renderer.render({"messages": messages} | given)
    except RenderingError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_template_renders_as_in_transformers(name: str) -> None:
    with TemplateRenderer(KNOWN[name]) as renderer:
        for messages in CHATS:
            for values in VALUES:
                expected = by_transformers(KNOWN[name], messages, values)
                found = by_us(renderer, messages, values)
                assert found == expected or (expected.startswith("failed: ") and found.startswith("refused: "))


@pytest.mark.parametrize("name", KNOWN)
def test_vllm_treats_the_stand_in_of_a_template_as_the_template(name: str) -> None:
    template = KNOWN[name]
    with TemplateRenderer(template) as renderer:
        features = renderer.features()
        stand_in = _stand_in(features)
    assert _content_format(stand_in) == _content_format(template)
    assert _variables(stand_in) - {"render_adapter_template"} == _variables(template)
    assert features.needs_system_first == AnthropicServingMessages._detect_merge_inline_system(template)
    knows_developer = vllm_hf._detect_developer_role_support
    assert knows_developer(stand_in) == knows_developer(template)


def _content_format(template: str) -> str:
    return str(vllm_hf._detect_content_format(template, default="string"))


def _variables(template: str) -> set[str]:
    return set(vllm_hf._resolve_chat_template_kwargs(template)) | {"messages"}


def test_known_templates_are_many() -> None:
    assert len(KNOWN) > 70
