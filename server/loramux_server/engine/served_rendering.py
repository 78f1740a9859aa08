"""How vLLM's chat handler renders conversations: what training and token counts have to do as well."""

import logging
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers.hf import (
    resolve_chat_template,
    resolve_chat_template_content_format,
    resolve_chat_template_kwargs,
)

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer, ChatRendering, TemplateUse
from loramux_adapters.finetuning.errors import ChatTemplateError
from loramux_server.engine.adapter_templates import has_template_renderer

_log = logging.getLogger(__name__)
_QUESTION = [{"role": "user", "content": "Which?"}]
_ANSWER = "This one."
_OTHER_RENDERER = "conversations of this base are not rendered by a chat template when served, so they can't be trained"
_NO_TEMPLATE = (
    "the base has no chat template: train on its chat ('instruct') variant, or set LORAMUX_ENGINE__CHAT_TEMPLATE"
)
_NO_CONTENT = (
    "the reasoning parser finds no content in an answer without reasoning, so no answer can be learned: set another "
    "LORAMUX_ENGINE__REASONING_PARSER, or none"
)


def served_rendering(chat: Any) -> ChatRendering:
    """Return the rendering of an `OpenAIServingChat`; one with a `refusal` if training can't do the same."""
    try:
        return _find_rendering(chat)
    except Exception as error:  # noqa: BLE001 - of many templates, tokenizers and parsers: the base is served all the same
        _log.warning("fine-tuning is not possible: the rendering of conversations was not found", exc_info=error)
        return ChatRendering(refusal=f"the chat template or a parser of the base can't be used in training: {error}")


def _find_rendering(chat: Any) -> ChatRendering:
    config, renderer = chat.model_config, chat.engine_client.renderer
    if not has_template_renderer(config, renderer):
        return ChatRendering(refusal=_OTHER_RENDERER)
    plain, with_tools = _template_use(chat, None), _template_use(chat, [])
    if plain is None:
        return ChatRendering(refusal=_NO_TEMPLATE)
    rendering = ChatRendering(
        **plain.model_dump(),
        with_tools=None if with_tools == plain else with_tools,
        tokenizer=None if config.tokenizer == config.model else str(config.tokenizer),
        stop_token_ids=stop_token_ids(config),
    )
    return _AnswerPrefix(chat, ChatRenderer(renderer.tokenizer, rendering)).add_to(rendering)


def _template_use(chat: Any, tools: list[Any] | None) -> TemplateUse | None:
    """Return the template of requests with tools, or of those without (None); None if there is no template."""
    config, tokenizer = chat.model_config, chat.engine_client.renderer.tokenizer
    template = resolve_chat_template(tokenizer, chat.chat_template, tools, model_config=config)
    if template is None:
        return None
    content_format = resolve_chat_template_content_format(
        template, tools, chat.chat_template_content_format, tokenizer, model_config=config
    )
    return TemplateUse(
        template=template,
        kwargs=resolve_chat_template_kwargs(tokenizer, template, chat.default_chat_template_kwargs),
        has_content_parts=content_format == "openai",
    )


def stop_token_ids(config: Any) -> tuple[int, ...]:
    """Return the tokens with which the generation config ends answers."""
    stop = config.try_get_generation_config().get("eos_token_id")
    return tuple(stop) if isinstance(stop, list) else () if stop is None else (stop,)


class _AnswerPrefix:
    """Finds what an answer must begin with for the endpoint's reasoning parser to return all of it as content."""

    def __init__(self, chat: Any, renderer: ChatRenderer) -> None:
        self._chat, self._renderer = chat, renderer

    def add_to(self, rendering: ChatRendering) -> ChatRendering:
        """Return the rendering with this prefix; with a refusal if there is none."""
        if not getattr(self._chat, "parser_cls", None):
            return rendering
        reasoning_parser = self._parser(self._request()).reasoning_parser
        if reasoning_parser is None:
            return rendering
        rendering = rendering.model_copy(update={"has_reasoning_parser": True})
        try:
            found = next((prefix for prefix in self._candidates(reasoning_parser) if self._is_content(prefix)), None)
        except ChatTemplateError:  # it will be reported for each conversation
            return rendering
        changes = {"refusal": _NO_CONTENT} if found is None else {"answer_prefix": found}
        return rendering.model_copy(update=changes)

    def _candidates(self, reasoning_parser: Any) -> list[str]:
        """Return what an answer could begin with: nothing, what the template writes, or an end of reasoning."""
        of_template = ExampleTokenizer(self._renderer).answer_prefix(_QUESTION)
        end = reasoning_parser.reasoning_end_str
        return ["", of_template, *([f"{end}\n\n", end] if end else [])]

    def _is_content(self, prefix: str) -> bool:
        """Whether the endpoint returns an answer that is generated after `prefix`, without the spaces around it."""
        text, request = prefix + _ANSWER, self._request()
        parser = self._parser(request)
        parser.set_prompt_token_ids(self._renderer.prompt_tokens(_QUESTION))
        _, content, _ = parser.parse(text, request, model_output_token_ids=self._renderer.encode(text))
        return (content or "").strip() == _ANSWER

    def _request(self) -> ChatCompletionRequest:
        return ChatCompletionRequest(messages=_QUESTION)

    def _parser(self, request: ChatCompletionRequest) -> Any:
        return self._chat._make_parser(request, self._renderer.tokenizer, self._renderer.rendering.kwargs)
