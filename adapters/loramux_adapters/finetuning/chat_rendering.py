"""Renders conversations as the base is served them: for training, the evaluation and token counts alike."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.errors import ChatTemplateError

Messages = Sequence[dict[str, str]]

FIXED_DATE = datetime(2024, 7, 26)  # noqa: DTZ001 - a template writes the day only
"""Today, for templates that write it: examples and counts must not depend on the day of a training.

It is the day that Llama's templates write where no clock is given to them.
"""


_MAX_REASON_LENGTH = 300


class ChatRendering(BaseModel):
    """How the served base turns a conversation into a prompt; part of a trainer's run file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str | None = None
    """Jinja text of the chat template; None for the tokenizer's own."""
    kwargs: dict[str, Any] = {}
    """Values of the template's variables, as a request without `chat_template_kwargs` gets them."""
    has_content_parts: bool = False
    """Whether the template reads a message's content as a list of parts."""
    tokenizer: str | None = None
    """Folder of the tokenizer; None for the base's."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer when served, in addition to the tokenizer's `eos_token`."""
    answer_prefix: str = ""
    """Text that the model must write before an answer, because the reasoning parser takes everything until its end."""
    refusal: str | None = None
    """Why conversations can't be rendered as they are served; None if they can."""


def read_stop_token_ids(base: Path) -> tuple[int, ...]:
    """Return the tokens with which the generation config in the folder of a base ends answers."""
    try:
        stop = json.loads((base / "generation_config.json").read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return ()
    ids = stop if isinstance(stop, list) else [stop]
    return tuple(number for number in ids if type(number) is int)


class ChatRenderer:
    """Renders conversations with one tokenizer, in memory; safe for threads if the tokenizer is."""

    def __init__(self, tokenizer: Any, rendering: ChatRendering) -> None:
        self.tokenizer, self.rendering = tokenizer, rendering

    def render(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        """Return the text of a conversation.

        Raises:
            ChatTemplateError: the template refuses the messages; its message includes the template's.
        """
        if self.rendering.refusal:
            raise ChatTemplateError(self.rendering.refusal)
        fixed = {
            "chat_template": self.rendering.template,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": False,
            "tokenize": False,
        }
        values = {"strftime_now": FIXED_DATE.strftime} | self.rendering.kwargs | fixed
        try:
            text: str = self.tokenizer.apply_chat_template(self._template_messages(messages), **values)
        except Exception as error:  # a template can raise any
            reason = " ".join(str(error).split())[:_MAX_REASON_LENGTH] or type(error).__name__
            raise ChatTemplateError(f"the base's chat template refuses it: {reason}{self._hint(messages)}") from error
        return text

    def _hint(self, messages: Messages) -> str:
        """Return what would make the template accept refused messages, if that is a missing system message."""
        if len(messages) < 2 or messages[0]["role"] != "system":
            return ""
        try:
            self.render(messages[1:], add_generation_prompt=False)
        except ChatTemplateError:
            return ""
        return " (accepted without the system message: put its text into the first user message)"

    def encode(self, text: str) -> list[int]:
        """Tokenize a rendered text, whose template has already written the special tokens."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def prompt_tokens(self, messages: Messages) -> list[int]:
        """Return the tokens of a prompt, to be answered, as a request with these messages has them.

        Raises:
            ChatTemplateError: the template refuses the messages.
        """
        return self.encode(self.render(messages, add_generation_prompt=True))

    def _template_messages(self, messages: Messages) -> list[dict[str, Any]]:
        if not self.rendering.has_content_parts:
            return list(messages)
        return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]
