"""The tokens of a training example: the prompt as it is served, and the answer as the model has to generate it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from loramux_adapters.evaluation.reasoning import OPENING
from loramux_adapters.finetuning.chat_rendering import ChatRenderer
from loramux_adapters.finetuning.errors import ChatTemplateError
from loramux_adapters.finetuning.template_messages import Messages, Tools

_MARKER = "loramux-answer-5b0f3a9c41e7"
"""Stands for an answer, to find what the template writes before and after it."""
_MAX_CACHED_ENDINGS = 64


class ExampleTokens(NamedTuple):
    """Token ids of an example's prompt, and those to learn: the answer with the end of its turn."""

    prompt: list[int]
    answer: list[int]


class _Written(NamedTuple):
    """What a template writes after a prompt: spaces, the answer, and the end of the turn."""

    space: str
    content: str
    ending: str


class ExampleTokenizer:
    """Tokenizes training examples so that a request with the same prompt continues with exactly the answer.

    The prompt's tokens are those that a request with its messages has. Usually the rendered conversation continues them
    with the answer. Some templates render a whole conversation differently from its prompt: Qwen3's writes an empty
    think block before the last answer, DeepSeek-R1's leaves out the `<think>` that ends the prompt. What the template
    puts between the two is not learned, so that the endpoint returns the answer and nothing else; except for spaces,
    which such bases write before each answer.

    Calls are learned as the template writes them.
    """

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        eos = renderer.tokenizer.eos_token_id
        self._stop_tokens = {*renderer.rendering.stop_token_ids, *([] if eos is None else [eos])}
        self._endings: dict[str, str] = {}

    def tokenize(self, prompt: Messages, answer: dict[str, Any], tools: Tools = ()) -> ExampleTokens:
        """Return the tokens of a prompt and of its answer, a message of the assistant; `tools` are the request's.

        Raises:
            ChatTemplateError: the template refuses the messages, does not write the answer, or does not end it; or a
                token within the answer would end it.
        """
        prompt_text = self._renderer.render(prompt, tools=tools, add_generation_prompt=True)
        written = self._written(prompt, answer, tools, prompt_text)
        text = written.space + self._opening(prompt_text, written.content) + written.ending
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
        before, _ = self._around_answer(prompt, ())
        return _between(prompt_text, before)

    def _written(self, prompt: Messages, answer: dict[str, Any], tools: Tools, prompt_text: str) -> "_Written":
        before, after = self._around_answer(prompt, tools)
        whole = self._render_answered(prompt, answer, tools)
        space = _between(prompt_text, before)
        space = space if space.isspace() else ""
        if not answer.get("tool_calls"):
            return _Written(space, _as_written(whole, answer["content"] or "", before, after), self._ending(after))
        if whole.startswith(before):
            return _Written(space, *self._split_calls(whole.removeprefix(before), after))
        if whole.startswith(prompt_text):
            return _Written("", *self._split_calls(whole.removeprefix(prompt_text), after))
        raise ChatTemplateError(
            "the base's chat template changes the prompt where calls follow it, so what to generate is not known: "
            "set LORAMUX_ENGINE__CHAT_TEMPLATE to a template that does not"
        )

    def _split_calls(self, written: str, after: str) -> tuple[str, str]:
        """Split what the template writes for calls into these and the end of the turn, which may be an own one."""
        if after and written.endswith(after):
            return written.removesuffix(after), self._ending(after)
        has_end = self._find_stop(self._renderer.encode(written)) is not None
        return written, "" if has_end else self._ending("")

    def _around_answer(self, prompt: Messages, tools: Tools) -> tuple[str, str]:
        """Return what the template writes before and after an answer to the prompt."""
        marked = self._render_answered(prompt, {"role": "assistant", "content": _MARKER}, tools)
        before, marker, after = marked.rpartition(_MARKER)
        if not marker:
            raise ChatTemplateError(
                "the base's chat template does not write the assistant's messages as they are, so they can't be "
                "learned: set LORAMUX_ENGINE__CHAT_TEMPLATE to a template that does"
            )
        return before, after

    def _render_answered(self, prompt: Messages, answer: dict[str, Any], tools: Tools) -> str:
        return self._renderer.render([*prompt, answer], tools=tools, add_generation_prompt=False)

    def _opening(self, prompt_text: str, content: str) -> str:
        """Return the content as the model has to generate it: after the end of reasoning, if a parser expects one."""
        prefix = self._renderer.rendering.answer_prefix
        end_of_reasoning = prefix.split()[-1:]
        if prompt_text.rstrip().endswith(OPENING) and content.lstrip().startswith(OPENING):
            content = content.lstrip().removeprefix(OPENING).lstrip("\n")  # the prompt has opened it
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


def _as_written(whole: str, answer: str, before: str, after: str) -> str:
    """Return the answer as the template writes it, which may strip spaces; otherwise as the user wrote it."""
    written = whole[len(before) : len(whole) - len(after)]
    is_stripped = before + written + after == whole and written.strip() == answer.strip()
    return written if is_stripped else answer


def _between(prompt_text: str, before: str) -> str:
    """Return what stands before an answer in addition to the prompt; "" where that is rendered differently."""
    return before[len(prompt_text) :] if before.startswith(prompt_text) else ""
