"""Counting tokens as the trainer will, with the tokenizer that the engine has."""

from collections.abc import Sequence
from typing import Any


class EngineChatTokens:
    """The base's own chat template and tokenizer."""

    def __init__(self, engine: Any) -> None:
        self._tokenizer = engine.renderer.tokenizer

    def prompt(self, messages: Sequence[dict[str, str]]) -> int:
        """The tokens of what comes before an answer."""
        return self._count(messages, add_generation_prompt=True)

    def whole(self, messages: Sequence[dict[str, str]]) -> int:
        """The tokens of a conversation that ends with an answer."""
        return self._count(messages, add_generation_prompt=False)

    def _count(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> int:
        return len(
            self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
            )
        )
