from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError

from loramux_adapters.finetuning.errors import ChatTemplateError
from loramux_server.engine.chat_tokens import EngineChatTokens

CHAT = [{"role": "user", "content": "Hi"}]


def tokens(answer: Any) -> EngineChatTokens:
    """Return an EngineChatTokens whose tokenizer returns or raises `answer`."""

    def apply(_: object, **options: Any) -> list[int]:
        if isinstance(answer, Exception):
            raise answer
        return [7] * (answer + options["add_generation_prompt"])

    renderer = SimpleNamespace(tokenizer=SimpleNamespace(apply_chat_template=apply))
    return EngineChatTokens(SimpleNamespace(renderer=renderer))


def test_a_prompt_is_counted_with_the_generation_prompt() -> None:
    assert (tokens(5).count_prompt(CHAT), tokens(5).count_conversation(CHAT)) == (6, 5)


@pytest.mark.parametrize("error", [TemplateError("roles must alternate"), ValueError("an empty conversation")])
def test_an_error_of_the_template_is_reported_with_its_message(error: Exception) -> None:
    for count in (tokens(error).count_prompt, tokens(error).count_conversation):
        with pytest.raises(ChatTemplateError, match=f"the base's chat template refuses it: {error}"):
            count(CHAT)
