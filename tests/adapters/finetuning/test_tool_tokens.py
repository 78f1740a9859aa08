"""Examples with tools, for several forms of chat templates: the calls are learned as the template writes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer, ChatRendering, TemplateUse
from loramux_adapters.finetuning.errors import ChatTemplateError
from tests.helpers.chat_templates import CHATML, QWEN_TOOLS, REFUSING, TOOL_TEMPLATES, write_tokenizer

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SHOWING_TOOLS = "{% for tool in tools or [] %}{{ tool }}{% endfor %}" + CHATML
QUESTION = [{"role": "user", "content": "Rain?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def calling(*cities: str, content: str | None = None) -> dict[str, Any]:
    calls = [
        {
            "id": f"call{n:05}",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": city})},
        }
        for n, city in enumerate(cities)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, None)
    return AutoTokenizer.from_pretrained(folder)


def learned(tokenizer: Any, template: str, answer: dict[str, Any], prompt: Any = QUESTION, **options: Any) -> str:
    """Return the text of what is learned."""
    renderer = ChatRenderer(tokenizer, ChatRendering(template=template, **options))
    example = ExampleTokenizer(renderer).tokenize(prompt, answer, [TOOL])
    assert example.prompt == renderer.prompt_tokens(prompt, [TOOL])
    return renderer.decode(example.answer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen", f"{CALL}<|im_end|>\n"),
        ("thinking", f"{CALL}<|im_end|>\n"),
        ("open think", f"{CALL}<|im_end|>"),
        ("brackets", '[TOOL_CALLS] [{"arguments": {"city": "Oslo"}, "name": "weather"}]<|im_end|>'),
        ("own end", f"{CALL}<|user|>"),
    ],
)
def test_a_call_is_learned_from_its_first_token_to_the_end_of_the_turn(
    tokenizer: Any, name: str, expected: str
) -> None:
    stop = tuple(tokenizer("<|user|>", add_special_tokens=False)["input_ids"]) if name == "own end" else ()
    assert learned(tokenizer, TOOL_TEMPLATES[name], calling("Oslo"), stop_token_ids=stop) == expected


@pytest.mark.parametrize("name", sorted(TOOL_TEMPLATES))
def test_an_answer_in_words_is_learned_as_without_tools(tokenizer: Any, name: str) -> None:
    text = learned(tokenizer, TOOL_TEMPLATES[name], {"role": "assistant", "content": "No."})
    assert text.strip() == "No.<|im_end|>"


def test_several_calls_and_the_words_before_them_are_learned(tokenizer: Any) -> None:
    text = learned(tokenizer, QWEN_TOOLS, calling("Oslo", "Rome", content="Both."))
    assert text == f"Both.\n{CALL}\n{CALL.replace('Oslo', 'Rome')}<|im_end|>\n"


def test_what_a_reasoning_parser_takes_away_is_learned_before_a_call(tokenizer: Any) -> None:
    text = learned(tokenizer, TOOL_TEMPLATES["open think"], calling("Oslo"), answer_prefix="</think>\n\n")
    assert text == f"</think>\n\n{CALL}<|im_end|>"


def test_calls_and_results_in_the_prompt_are_context(tokenizer: Any) -> None:
    prompt = [*QUESTION, calling("Oslo"), {"role": "tool", "tool_call_id": "call00000", "content": "dry"}]
    assert learned(tokenizer, QWEN_TOOLS, {"role": "assistant", "content": "No."}, prompt) == "No.<|im_end|>\n"
    assert learned(tokenizer, QWEN_TOOLS, calling("Oslo"), prompt) == f"{CALL}<|im_end|>\n"


def test_an_argument_that_would_end_the_call_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ChatTemplateError, match="ends an answer"):
        learned(tokenizer, QWEN_TOOLS, calling("<|im_end|> Oslo"))


def test_requests_with_tools_are_rendered_by_the_template_for_them(tokenizer: Any) -> None:
    rendering = ChatRendering(template=CHATML, with_tools=TemplateUse(template=QWEN_TOOLS))
    renderer = ChatRenderer(tokenizer, rendering)
    assert "weather" in renderer.render(QUESTION, tools=[TOOL], add_generation_prompt=True)
    assert renderer.render(QUESTION, add_generation_prompt=False) == "<|im_start|>user\nRain?<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "prompt", "tools", "words"),
    [
        (CHATML, QUESTION, [TOOL], "does not show tools.*LORAMUX_ENGINE__CHAT_TEMPLATE.*chatml-tools"),
        (CHATML, [*QUESTION, calling("Oslo")], [], "where no tools are given"),
        (REFUSING, QUESTION, [TOOL], "Tools are not supported"),
        (
            SHOWING_TOOLS,
            [*QUESTION, calling("A")],
            [TOOL],
            "leaves out",
        ),
    ],
)
def test_a_template_that_leaves_out_tools_or_calls_is_refused_with_a_way_out(
    tokenizer: Any, template: str, prompt: Any, tools: Any, words: str
) -> None:
    """C16: the demo's own template shows no tools."""
    renderer = ChatRenderer(tokenizer, ChatRendering(template=template))
    with pytest.raises(ChatTemplateError, match=words):
        renderer.render(prompt, tools=tools, add_generation_prompt=False)
