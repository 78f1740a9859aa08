"""The tokens of a training example: the prompt as it is served, and the answer as the model has to generate it."""

from collections.abc import Sequence
from typing import NamedTuple

from loramux_adapters.finetuning.chat_rendering import ChatRenderer, Messages
from loramux_adapters.finetuning.errors import ChatTemplateError

_MARKER = "loramux-answer-5b0f3a9c41e7"
"""Stands for an answer, to find what the template writes before and after it."""
_OPEN_REASONING = "<think>"
_MAX_CACHED_ENDINGS = 64


class ExampleTokens(NamedTuple):
    """Token ids of an example's prompt, and those to learn: the answer with the end of its turn."""

    prompt: list[int]
    answer: list[int]


class ExampleTokenizer:
    """Tokenizes training examples so that a request with the same prompt continues with exactly the answer.

    The prompt's tokens are those that a request with its messages has. Usually the rendered conversation continues them
    with the answer. Some templates render a whole conversation differently from its prompt: Qwen3's writes an empty
    think block before the last answer, DeepSeek-R1's leaves out the `<think>` that ends the prompt. What the template
    puts between the two is not learned, so that the endpoint returns the answer and nothing else; except for spaces,
    which such bases write before each answer.
    """

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        eos = renderer.tokenizer.eos_token_id
        self._stop_tokens = {*renderer.rendering.stop_token_ids, *([] if eos is None else [eos])}
        self._endings: dict[str, str] = {}

    def tokenize(self, prompt: Messages, answer: str) -> ExampleTokens:
        """Return the tokens of a prompt and of its answer.

        Raises:
            ChatTemplateError: the template refuses the messages, does not write the answer, or does not end it; or a
                token within the answer would end it.
        """
        prompt_text = self._renderer.render(prompt, add_generation_prompt=True)
        before, after = self._around_answer(prompt)
        content = self._rendered_answer(prompt, answer, before, after)
        space = _between(prompt_text, before)
        text = (space if space.isspace() else "") + self._opening(prompt_text, content) + self._ending(after)
        prompt_tokens = self._renderer.encode(prompt_text)
        answer_tokens = self._continuation(prompt_text, prompt_tokens, text)
        self._check_end(answer_tokens)
        return ExampleTokens(prompt_tokens, answer_tokens)

    def answer_prefix(self, prompt: Messages) -> str:
        """Return what the template writes between the prompt, as served, and the answer: such as a think block.

        Raises:
            ChatTemplateError: the template refuses the messages, or does not write the answer.
        """
        prompt_text = self._renderer.render(prompt, add_generation_prompt=True)
        before, _ = self._around_answer(prompt)
        return _between(prompt_text, before)

    def _around_answer(self, prompt: Messages) -> tuple[str, str]:
        """Return what the template writes before and after an answer to the prompt."""
        marked = self._render_answered(prompt, _MARKER)
        before, marker, after = marked.rpartition(_MARKER)
        if not marker:
            raise ChatTemplateError(
                "the base's chat template does not write the assistant's messages as they are, so they can't be "
                "learned: set LORAMUX_ENGINE__CHAT_TEMPLATE to a template that does"
            )
        return before, after

    def _rendered_answer(self, prompt: Messages, answer: str, before: str, after: str) -> str:
        """Return the answer as the template writes it, which may strip spaces; otherwise as the user wrote it."""
        whole = self._render_answered(prompt, answer)
        written = whole[len(before) : len(whole) - len(after)]
        is_stripped = before + written + after == whole and written.strip() == answer.strip()
        return written if is_stripped else answer

    def _render_answered(self, prompt: Messages, answer: str) -> str:
        messages = [*prompt, {"role": "assistant", "content": answer}]
        return self._renderer.render(messages, add_generation_prompt=False)

    def _opening(self, prompt_text: str, content: str) -> str:
        """Return the content as the model has to generate it: after the end of reasoning, if a parser expects one."""
        prefix = self._renderer.rendering.answer_prefix
        end_of_reasoning = prefix.split()[-1:]
        if prompt_text.rstrip().endswith(_OPEN_REASONING) and content.lstrip().startswith(_OPEN_REASONING):
            content = content.lstrip().removeprefix(_OPEN_REASONING).lstrip("\n")  # the prompt has opened it
        return content if any(tag in content for tag in end_of_reasoning) else prefix + content

    def _ending(self, after: str) -> str:
        """Return the end of the assistant's turn: up to the token that ends an answer when served, and line ends.

        Raises:
            ChatTemplateError: neither the template nor the tokenizer has such a token.
        """
        if after not in self._endings:
            if len(self._endings) >= _MAX_CACHED_ENDINGS:
                self._endings.clear()
            self._endings[after] = self._find_ending(after)
        return self._endings[after]

    def _find_ending(self, after: str) -> str:
        tokens = self._renderer.encode(after)
        stop = self._find_stop(tokens)
        if stop is None:
            if eos := self._renderer.tokenizer.eos_token:
                return str(eos)
            raise ChatTemplateError(
                "the base's chat template writes no token after an answer that would end it, and its tokenizer has no "
                "eos_token: an adapter could not learn to stop"
            )
        rest = self._renderer.decode(tokens[stop + 1 :])
        return self._renderer.decode(tokens[: stop + 1]) if rest.strip() else after

    def _check_end(self, answer: Sequence[int]) -> None:
        """Check that no token ends the answer before the end of the turn: nothing after it could ever be served.

        Raises:
            ChatTemplateError: one does.
        """
        stop = self._find_stop(answer)
        if stop is not None and self._renderer.decode(answer[stop + 1 :]).strip():
            token = self._renderer.decode(answer[stop : stop + 1])
            raise ChatTemplateError(f"the answer contains {token!r}, which ends an answer when served: remove it")

    def _find_stop(self, tokens: Sequence[int]) -> int | None:
        return next((position for position, token in enumerate(tokens) if token in self._stop_tokens), None)

    def _continuation(self, prompt_text: str, prompt: Sequence[int], text: str) -> list[int]:
        """Return the tokens of `text` after the prompt's.

        Usually those that follow them in the tokens of both. Where a token would span the border, `text` is tokenized
        by itself, as a model generates it: it can't change the prompt's last token.
        """
        both = self._renderer.encode(prompt_text + text)
        if both[: len(prompt)] == prompt:
            return both[len(prompt) :]
        alone = self._renderer.encode(text)
        if self._renderer.decode([*prompt, *alone]) != self._renderer.decode(both):
            raise ChatTemplateError(
                "the tokenizer joins the end of the prompt and the beginning of the answer to one token, and has no "
                "other tokens for them: begin the answer with another character, or end the prompt with a line end"
            )
        return alone


def _between(prompt_text: str, before: str) -> str:
    """Return what stands before an answer in addition to the prompt; "" where that is rendered differently."""
    return before[len(prompt_text) :] if before.startswith(prompt_text) else ""
