"""Token counts are those of requests and of the trainer; tests/contract compares both with vLLM's handler."""

from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError

from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.errors import ChatTemplateError
from loramux_server.engine.chat_tokens import EngineChatTokens

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


class Tokenizer:
    """A token for each character; renders `USER>` and `ANSWER|`, and writes `@` only at the end of a prompt."""

    eos_token_id, eos_token = ord("|"), "|"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def apply_chat_template(self, messages: Any, *, add_generation_prompt: bool, **_: Any) -> str:
        if self.error:
            raise self.error
        ends = {"user": ">", "assistant": "|"}
        text = "".join(message["content"] + ends.get(message["role"], "") for message in messages)
        return text + "@" * add_generation_prompt

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, tokens: list[int], **_: Any) -> str:
        return "".join(map(chr, tokens))


def tokens(error: Exception | None = None, **rendering: Any) -> EngineChatTokens:
    renderer = SimpleNamespace(tokenizer=Tokenizer(error))
    engine = SimpleNamespace(renderer=renderer, model_config=SimpleNamespace(max_model_len=99, dtype="torch.bfloat16"))
    return EngineChatTokens(engine, ChatRendering(**rendering))


def test_a_prompt_is_counted_with_the_generation_prompt() -> None:
    assert tokens().count_prompt(CHAT[:1]) == len("Hi>@")


def test_a_conversation_with_an_answer_is_counted_as_it_is_trained() -> None:
    assert tokens().count_conversation(CHAT) == len("Hi>@Hello|")


def test_a_conversation_without_an_answer_is_counted_as_it_is() -> None:
    assert tokens().count_conversation([{"role": "system", "content": "Be brief"}]) == len("Be brief")


@pytest.mark.parametrize("error", [TemplateError("roles must alternate"), ValueError("an empty conversation")])
def test_an_error_of_the_template_is_reported_with_its_message(error: Exception) -> None:
    for count in (tokens(error).count_prompt, tokens(error).count_conversation):
        with pytest.raises(ChatTemplateError, match=f"the base's chat template refuses it: {error}"):
            count(CHAT)


def test_a_base_that_is_not_served_by_a_chat_template_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="no template"):
        tokens(refusal="no template").count_prompt(CHAT)
