"""Renders conversations as the base is served them: for training, the evaluation and token counts alike."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.reasoning import END, OPENING
from loramux_adapters.finetuning.errors import ChatTemplateError
from loramux_adapters.finetuning.template_messages import Messages, Tools, template_messages, template_tools
from loramux_adapters.finetuning.tool_probes import ToolProbe, required_probes

FIXED_DATE = datetime(2024, 7, 26)  # noqa: DTZ001 - a template writes the day only
"""Today, for templates that write it: examples and counts must not depend on the day of a training.

It is the day that Llama's templates write where no clock is given to them.
"""


_MAX_REASON_LENGTH = 300


class TemplateUse(BaseModel):
    """A chat template, and what vLLM hands to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str | None = None
    """Jinja text of the chat template; None for the tokenizer's own."""
    kwargs: dict[str, Any] = {}
    """Values of the template's variables, as a request without `chat_template_kwargs` gets them."""
    has_content_parts: bool = False
    """Whether the template reads a message's content as a list of parts."""


class ChatRendering(TemplateUse):
    """How the served base turns a conversation into a prompt; part of a trainer's run file."""

    with_tools: TemplateUse | None = None
    """The template of requests with tools, if the base has another one for them."""
    tokenizer: str | None = None
    """Folder of the tokenizer; None for the base's."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer when served, in addition to the tokenizer's `eos_token`."""
    answer_prefix: str = ""
    """Text that the model must write before an answer, because the reasoning parser takes everything until its end."""
    has_reasoning_parser: bool = False
    """Whether the endpoint takes an answer's reasoning out of its content."""
    refusal: str | None = None
    """Why conversations can't be rendered as they are served; None if they can."""

    def fingerprint(self) -> str:
        """Return a text that differs between renderings; that of a rendering of an earlier release never changes."""
        added = {"with_tools", "has_reasoning_parser"}
        unset = {name for name in added if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump_json(exclude=unset)


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
        self._shown: dict[ToolProbe, bool] = {}

    def render(self, messages: Messages, *, tools: Tools = (), add_generation_prompt: bool) -> str:
        """Return the text of a conversation; `tools` are those of its request.

        Raises:
            ChatTemplateError: the template refuses the messages, with its reason; or it leaves out tools or calls.
        """
        if self.rendering.refusal:
            raise ChatTemplateError(self.rendering.refusal)
        self._check_tools(messages, tools)
        try:
            return self._apply_template(messages, tools, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template can raise any
            reason = " ".join(str(error).split())[:_MAX_REASON_LENGTH] or type(error).__name__
            hint = self._hint(messages, tools)
            raise ChatTemplateError(f"the base's chat template refuses it: {reason}{hint}") from error

    def _apply_template(self, messages: Messages, tools: Tools, *, add_generation_prompt: bool) -> str:
        use = self.rendering.with_tools if tools and self.rendering.with_tools else self.rendering
        fixed = {
            "chat_template": use.template,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": False,
            "tokenize": False,
        }
        template = use.template or getattr(self.tokenizer, "chat_template", None)
        shown = template_messages(messages, template=str(template), has_content_parts=use.has_content_parts)
        values = {"strftime_now": FIXED_DATE.strftime} | use.kwargs | fixed | {"tools": template_tools(tools)}
        text: str = self.tokenizer.apply_chat_template(shown, **values)
        return text

    def _check_tools(self, messages: Messages, tools: Tools) -> None:
        """Check that the template shows the tools, and the calls with their results, where there are some.

        Raises:
            ChatTemplateError: it leaves them out without a word.
        """
        for probe in required_probes(messages, tools):
            if probe not in self._shown:
                self._shown[probe] = probe.is_shown(partial(self._apply_template, add_generation_prompt=True))
            if not self._shown[probe]:
                raise ChatTemplateError(probe.refusal)

    def _hint(self, messages: Messages, tools: Tools) -> str:
        """Return what would make the template accept refused messages, if that is a missing system message."""
        if len(messages) < 2 or messages[0]["role"] != "system":
            return ""
        try:
            self.render(messages[1:], tools=tools, add_generation_prompt=False)
        except ChatTemplateError:
            return ""
        return " (accepted without the system message: put its text into the first user message)"

    @cached_property
    def opens_reasoning(self) -> bool:
        """Whether a prompt ends within reasoning, which the model is to end before it answers."""
        try:
            text = self.render([{"role": "user", "content": "?"}], add_generation_prompt=True)
        except ChatTemplateError:
            return False
        return text.rstrip().endswith(OPENING)

    @property
    def may_reason(self) -> bool:
        """Whether the base may write reasoning before an answer, by its template and the endpoint's parser."""
        return self.rendering.has_reasoning_parser or END in (self.rendering.template or "")

    def encode(self, text: str) -> list[int]:
        """Tokenize a rendered text, whose template has already written the special tokens."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def prompt_tokens(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Return the tokens of a prompt, to be answered, as a request with these messages has them.

        Raises:
            ChatTemplateError: the template refuses the messages.
        """
        return self.encode(self.render(messages, tools=tools, add_generation_prompt=True))
