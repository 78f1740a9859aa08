import json
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.chat_templates.environment import make_environment
from loramux_server.engine.tool_template import add_tool_template, with_tools
from loramux_server.errors import CannotStart
from tests.helpers.chat_templates import CHATML, STRIPPING

TOOL = {"type": "function", "function": {"name": "rain", "description": None, "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "rain", "arguments": {"city": "Ås"}}}
USER = {"role": "user", "content": "Rain?"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
RESULT = {"role": "tool", "content": "dry"}


def base(folder: Path, template: str | None, *, in_config: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    if in_config:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    elif template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def rendered(template: str, *messages: dict[str, Any], **values: Any) -> str:
    options = {"messages": messages, "add_generation_prompt": True} | values
    return make_environment().from_string(template).render(options)


@pytest.mark.parametrize("in_config", [False, True])
def test_requests_without_tools_are_rendered_by_the_bases_own_template(tmp_path: Path, in_config: bool) -> None:
    template = with_tools(base(tmp_path, CHATML, in_config=in_config))
    for messages in ([USER], [{"role": "system", "content": "Be brief."}, USER]):
        assert rendered(template, *messages) == rendered(CHATML, *messages)
        assert rendered(template, *messages, tools=[]) == rendered(CHATML, *messages)


def test_tools_calls_and_results_are_written_as_the_parser_hermes_reads_them(tmp_path: Path) -> None:
    """C16: the demo's own template shows no tools."""
    call = '<tool_call>\n{"name": "rain", "arguments": {"city": "Ås"}}\n</tool_call>'
    system = {"role": "system", "content": "Be brief."}
    template = with_tools(base(tmp_path, CHATML))
    assert rendered(template, system, USER, CALLING, RESULT, RESULT, tools=[TOOL]) == (
        '<|im_start|>system\nBe brief.\n\nTools:\n{"name": "rain", "parameters": {"type": "object"}}\n'
        'To call one, write:\n<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n'
        f"<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n{call}\n{call}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\ndry\n</tool_response>\n<tool_response>\ndry\n</tool_response>\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [None, STRIPPING, ""])
def test_a_base_in_another_form_is_refused(tmp_path: Path, template: str | None) -> None:
    with pytest.raises(CannotStart, match="ChatML's form"):
        with_tools(base(tmp_path, template))


@pytest.mark.parametrize("config", ["", "[]", '{"chat_template": ["a"]}', "\ud800"])
def test_a_broken_tokenizer_config_is_a_base_without_a_template(tmp_path: Path, config: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(config.encode(errors="surrogatepass"))
    with pytest.raises(CannotStart, match="ChatML's form"):
        with_tools(tmp_path)


def test_a_template_for_tools_is_added_once_and_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "additional_chat_templates" / "tool_use.jinja"
    add_tool_template(tmp_path)
    assert "<tool_call>" in file.read_text()
    file.write_text("own")
    add_tool_template(tmp_path)
    assert file.read_text() == "own"
    assert [path.name for path in file.parent.iterdir()] == ["tool_use.jinja"]
