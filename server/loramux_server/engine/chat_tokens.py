"""Counting tokens as the trainer will, with the tokenizer that the engine has."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from loramux_adapters.finetuning.errors import RefusedChat


class EngineChatTokens:
    """The base's own chat template and tokenizer; raises RefusedChat."""

    def __init__(self, engine: Any) -> None:
        self._tokenizer = engine.renderer.tokenizer

    def prompt(self, messages: Sequence[dict[str, str]]) -> int:
        """The tokens of what comes before an answer."""
        return self._count(messages, add_generation_prompt=True)

    def whole(self, messages: Sequence[dict[str, str]]) -> int:
        """The tokens of a conversation that ends with an answer."""
        return self._count(messages, add_generation_prompt=False)

    def _count(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> int:
        return len(in_tokens(self._tokenizer, messages, add_generation_prompt=add_generation_prompt))


def in_tokens(tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True) -> list[int]:
    """Put a chat into the base's own form; raises RefusedChat with the template's words where that has none for it."""
    try:
        tokens: list[int] = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
    except (TemplateError, ValueError) as error:
        raise RefusedChat(f"the base's chat template refuses it: {error}") from error
    return tokens
