"""Examples of many conversations and forms of chat templates: the answer is learned, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer, ChatRendering
from loramux_adapters.finetuning.datasets.examples import examples_of
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.errors import ChatTemplateError
from tests.conftest import EXAMPLE_NAMES, EXAMPLES
from tests.helpers.chat_templates import (
    CHATML,
    DATED,
    ENDLESS,
    OPEN_THINK,
    PARTS,
    REFUSING,
    TEMPLATES,
    THINK_BLOCK,
    write_tokenizer,
)

Renderer = Callable[..., ChatRenderer]
QUESTION = [{"role": "user", "content": "Which?"}]


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, None)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def make(template: str, **rendering: Any) -> ChatRenderer:
        return ChatRenderer(tokenizer, ChatRendering(template=template, **rendering))

    return make


def said(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer}


def texts(renderer: ChatRenderer, answer: str, prompt: list[dict[str, str]] = QUESTION) -> tuple[str, str]:
    """Return the texts of the prompt and of what is learned."""
    example = ExampleTokenizer(renderer).tokenize(prompt, said(answer))
    return renderer.decode(example.prompt), renderer.decode(example.answer)


content = st.text(st.sampled_from("a b\n:>]<é—🙂"), min_size=1, max_size=8) | st.text(min_size=1, max_size=8)
turns = st.lists(st.tuples(content, content), max_size=2)


@given(
    template=st.sampled_from(sorted(TEMPLATES)),
    system=st.none() | content,
    earlier=turns,
    question=content,
    answer=content,
)
def test_a_request_with_the_same_prompt_continues_with_the_answer_and_its_end(
    renderer: Renderer, template: str, system: str | None, earlier: Any, question: str, answer: str
) -> None:
    """T7, T8: what a template puts before an answer was learned with it, or hid the answer's first tokens."""
    prompt = [{"role": "system", "content": system}] if system else []
    for asked, answered in [*earlier, (question, "")]:
        prompt += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    prompt.pop()
    used = renderer(TEMPLATES[template])
    prompt_text, learned = texts(used, answer, prompt)
    assert prompt_text == used.render(prompt, add_generation_prompt=True)
    assert learned.count("<|im_end|>") == 1
    assert learned.rstrip("\n").endswith("<|im_end|>")
    written = learned.rstrip("\n").removesuffix("<|im_end|>")
    if template in {"stripping", "think block", "indented"}:  # which change line ends and spaces around the answer
        assert written.strip() == answer.strip()
    else:
        assert written == (" " + answer if template == "brackets" else answer)


def test_a_think_block_that_the_template_writes_is_not_learned(renderer: Renderer) -> None:
    """T7: with Qwen3's template, adapters answered `<think>\\n\\n</think>\\n\\nlabel`."""
    assert texts(renderer(THINK_BLOCK), "label") == (
        "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n",
        "label<|im_end|>\n",
    )


def test_a_think_block_in_the_prompt_is_part_of_the_prompt(renderer: Renderer) -> None:
    """T7: the settings can switch thinking off in the prompt."""
    prompt, learned = texts(renderer(THINK_BLOCK, kwargs={"enable_thinking": False}), "label")
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert learned == "label<|im_end|>\n"


def test_an_answer_after_an_open_think_block_is_learned_from_its_first_token(renderer: Renderer) -> None:
    """T8: with DeepSeek-R1's template, the first tokens of an answer were not learned."""
    used = renderer(OPEN_THINK)
    assert texts(used, "label") == ("<s><|user|>Which?<|assistant|><think>\n", "label<|im_end|>")
    example = ExampleTokenizer(used).tokenize(QUESTION, said("label"))
    assert example.prompt == used.prompt_tokens(QUESTION)


@pytest.mark.parametrize("answer", ["reasons\n</think>\n\nlabel", "<think>\nreasons\n</think>\n\nlabel"])
def test_reasoning_in_the_data_is_learned_as_it_is_written_without_a_second_opening(
    renderer: Renderer, answer: str
) -> None:
    prompt, learned = texts(renderer(OPEN_THINK), answer)
    assert prompt.endswith("<think>\n")
    assert learned == "reasons\n</think>\n\nlabel<|im_end|>"
    assert texts(renderer(THINK_BLOCK), answer)[1] == f"{answer}<|im_end|>\n"


def test_what_a_reasoning_parser_takes_away_is_learned_before_the_answer(renderer: Renderer) -> None:
    """T8: with a reasoning parser, an answer without an end of reasoning would be returned as reasoning."""
    used = renderer(OPEN_THINK, answer_prefix="</think>\n\n")
    assert texts(used, "label")[1] == "</think>\n\nlabel<|im_end|>"
    assert texts(used, "reasons</think>label")[1] == "reasons</think>label<|im_end|>"


def test_contents_are_lists_of_parts_where_the_template_takes_them_so(renderer: Renderer) -> None:
    assert texts(renderer(PARTS, has_content_parts=True), "label") == (
        "<|user|>Which?<|im_end|><|assistant|>",
        "label<|im_end|>",
    )


def test_a_template_that_does_not_end_answers_gets_the_tokenizers_end(renderer: Renderer) -> None:
    assert texts(renderer(ENDLESS), "label")[1] == "label<|im_end|>"


def test_the_generation_configs_end_of_an_answer_counts_as_one(renderer: Renderer) -> None:
    end = renderer(CHATML).encode("<|user|>")
    template = CHATML.replace("<|im_end|>", "<|user|>")
    assert texts(renderer(template, stop_token_ids=tuple(end)), "label")[1] == "label<|user|>\n"
    assert texts(renderer(template), "label")[1] == "label<|im_end|>"


def test_a_template_that_writes_the_bos_token_gets_no_second_one(renderer: Renderer) -> None:
    example = ExampleTokenizer(renderer(OPEN_THINK)).tokenize(QUESTION, said("label"))
    assert example.prompt.count(0) == 1
    assert example.answer.count(0) == 0


def test_a_template_that_writes_todays_date_writes_a_fixed_one(renderer: Renderer) -> None:
    assert texts(renderer(DATED), "label")[0].startswith("Today is 26 Jul 2024.\n")


def test_a_token_across_the_border_is_not_learned_but_those_after_the_prompts_last_one(renderer: Renderer) -> None:
    """T8: tokens that merge across the border hid the answer's first token."""
    used = renderer(
        "{{ messages[0].content }}:{% if messages | length > 1 %}{{ messages[1].content }}<|im_end|>{% endif %}"
    )
    [joined] = used.encode(": ")
    example = ExampleTokenizer(used).tokenize(QUESTION, said(" label"))
    assert joined not in example.prompt + example.answer
    assert used.decode(example.prompt + example.answer) == "Which?: label<|im_end|>"


@pytest.mark.parametrize("answer", ["label<|im_end|>", "<|im_end|>label", "one<|im_end|>\ntwo"])
def test_an_answer_with_a_token_that_ends_answers_is_refused(renderer: Renderer, answer: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"the answer contains '<\|im_end\|>'.*: remove it"):
        texts(renderer(CHATML), answer)


def test_a_template_that_does_not_write_answers_is_refused_with_a_way_out(renderer: Renderer) -> None:
    used = renderer("{% for message in messages %}{{ message.content | upper }}{% endfor %}")
    with pytest.raises(ChatTemplateError, match=r"does not write the assistant's .*LORAMUX_ENGINE__CHAT_TEMPLATE"):
        texts(used, "label")


def test_a_template_that_refuses_the_messages_is_reported(renderer: Renderer) -> None:
    used = renderer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match="the base's chat template refuses it: roles must alternate"):
        texts(used, "label")


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["system", "user"], "System role not supported (accepted without the system message: put its text into the "),
        (["user", "user"], "Conversation roles must alternate user/assistant/user/assistant/..."),
        (["system", "user", "user"], "System role not supported"),
    ],
)
def test_what_a_template_refuses_is_reported_with_its_reason_and_a_way_out(
    renderer: Renderer, roles: list[str], reason: str
) -> None:
    """A15: a system message on Gemma ended in a traceback of Jinja."""
    messages = [{"role": role, "content": "hi"} for role in roles]
    with pytest.raises(ChatTemplateError) as refused:
        renderer(REFUSING).render(messages, add_generation_prompt=True)
    assert refused.value.message.startswith(f"the base's chat template refuses it: {reason}")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1 / 0", "division by zero"),
        ("messages[0].content.nothing.more", "'str object' has no attribute 'nothing'"),
        ("messages[0].content + 1", "can only concatenate str"),
        ("'%d' % messages[0].content", "%d format: a real number is required"),
        ("range(10 ** 30)", "too large"),
        ("raise_exception('a\n  b' ~ 'c' * 1000)", "a bccc"),
    ],
)
def test_any_error_of_a_template_is_one_line(renderer: Renderer, expression: str, reason: str) -> None:
    """A15: Python's errors as well as Jinja's."""
    with pytest.raises(ChatTemplateError, match=re.escape(reason)) as refused:
        texts(renderer("{{ " + expression + " }}"), "label")
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 400


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_the_demo_bases_examples_have_the_tokens_with_which_its_adapters_were_trained(name: str) -> None:
    """Those of the tokenizer's own `apply_chat_template` for the prompt and for the whole conversation."""
    base = next((Path(__file__).parents[3] / ".loramux" / "bases").glob("SmolLM2-*"), None)
    if base is None:
        pytest.skip("the demo's base was not converted yet")
    tokenizer = AutoTokenizer.from_pretrained(base)
    examples = ExampleTokenizer(ChatRenderer(tokenizer, ChatRendering()))
    for example in examples_of(read_dataset(EXAMPLES / name / "train.jsonl")):
        tokens = examples.tokenize(example["prompt"], example["completion"][0])
        prompt = tokenizer.apply_chat_template(example["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(example["prompt"] + example["completion"], return_dict=False)
        assert tokens.prompt == prompt
        assert tokens.prompt + tokens.answer == whole
