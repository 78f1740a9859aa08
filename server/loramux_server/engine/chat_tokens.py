"""Counts the tokens of chats with the engine's tokenizer, as they are served and as the trainer tokenizes them."""

from typing import Any

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer, ChatRendering
from loramux_adapters.finetuning.template_messages import Messages, Tools

MAX_REASONING_TOKENS = 2048
"""The room for reasoning in evaluations."""


class EngineChatTokens:
    """Counts the tokens of chats by the served chat template and the engine's tokenizer."""

    def __init__(self, engine: Any, rendering: ChatRendering) -> None:
        self.rendering = rendering
        self.max_context_tokens: int = engine.model_config.max_model_len
        self.dtype = str(engine.model_config.dtype).removeprefix("torch.")
        """The dtype in which the base is served, such as `bfloat16`."""
        self._renderer = ChatRenderer(engine.renderer.tokenizer, rendering)
        self._examples = ExampleTokenizer(self._renderer)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the context that the base may need for its reasoning before an answer; 0 if it has none."""
        return min(MAX_REASONING_TOKENS, self.max_context_tokens // 2) if self._renderer.may_reason else 0

    def count_prompt(self, messages: Messages, tools: Tools = ()) -> int:
        """Return the number of tokens before the answer, as a request has them.

        Raises:
            ChatTemplateError: the chat template refuses the messages.
        """
        return len(self._renderer.prompt_tokens(messages, tools))

    def count_conversation(self, messages: Messages, tools: Tools = ()) -> int:
        """Return the number of tokens of a conversation; if it ends with an answer, as it is trained.

        Raises:
            ChatTemplateError: the chat template refuses the messages.
        """
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            text = self._renderer.render(messages, tools=tools, add_generation_prompt=False)
            return len(self._renderer.encode(text))
        example = self._examples.tokenize(messages[:-1], messages[-1], tools)
        return len(example.prompt) + len(example.answer)
