"""Tokenizes chats with the engine's tokenizer, as the trainer does."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from loramux_adapters.finetuning.errors import ChatTemplateError


class EngineChatTokens:
    """Counts the tokens of chats by the base's chat template and tokenizer."""

    def __init__(self, engine: Any) -> None:
        self._tokenizer = engine.renderer.tokenizer

    def count_prompt(self, messages: Sequence[dict[str, str]]) -> int:
        """Return the number of tokens before the answer.

        Raises:
            ChatTemplateError: the chat template refuses the messages.
        """
        return self._count(messages, add_generation_prompt=True)

    def count_conversation(self, messages: Sequence[dict[str, str]]) -> int:
        """Return the number of tokens of a conversation that ends with an answer.

        Raises:
            ChatTemplateError: the chat template refuses the messages.
        """
        return self._count(messages, add_generation_prompt=False)

    def _count(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> int:
        return len(tokenize_chat(self._tokenizer, messages, add_generation_prompt=add_generation_prompt))


def tokenize_chat(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True
) -> list[int]:
    """Apply the base's chat template and tokenize the result.

    Raises:
        ChatTemplateError: the chat template refuses the messages; its message includes the template's.
    """
    try:
        tokens: list[int] = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
    except (TemplateError, ValueError) as error:
        raise ChatTemplateError(f"the base's chat template refuses it: {error}") from error
    return tokens
