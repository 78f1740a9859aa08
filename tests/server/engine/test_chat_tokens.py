from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError

from loramux_adapters.finetuning.errors import ChatTemplateError
from loramux_server.engine.chat_tokens import EngineChatTokens

CHAT = [{"role": "user", "content": "Hi"}]


def tokens(answer: Any) -> EngineChatTokens:
    """With a tokenizer that answers so, or raises it."""

    def apply(_: object, **options: Any) -> list[int]:
        if isinstance(answer, Exception):
            raise answer
        return [7] * (answer + options["add_generation_prompt"])

    renderer = SimpleNamespace(tokenizer=SimpleNamespace(apply_chat_template=apply))
    return EngineChatTokens(SimpleNamespace(renderer=renderer))


def test_a_prompt_is_counted_with_what_invites_the_answer() -> None:
    assert (tokens(5).count_prompt(CHAT), tokens(5).count_conversation(CHAT)) == (6, 5)


@pytest.mark.parametrize("error", [TemplateError("roles must alternate"), ValueError("an empty conversation")])
def test_what_the_template_has_no_form_for_is_refused_in_its_words(error: Exception) -> None:
    for count in (tokens(error).count_prompt, tokens(error).count_conversation):
        with pytest.raises(ChatTemplateError, match=f"the base's chat template refuses it: {error}"):
            count(CHAT)
