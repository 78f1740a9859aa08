"""What the intake has to know about conversations with the base: its chat template, and the tokens of its tokenizer."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllm.renderers.hf import resolve_chat_template

from loramux_adapters.intake.chat.companions import TOKENIZER_FILE
from loramux_adapters.intake.chat.policy import ServedChat
from loramux_server.engine.adapter_templates import has_template_renderer
from loramux_server.engine.served_rendering import stop_token_ids
from loramux_server.engine.vllm_compat import load_chat_template

_OTHER_RENDERER = "this base has no chat template, but its own code for conversations"


def served_chat(engine: Any, arguments: Namespace) -> ServedChat:
    """Return how an engine that was started with `arguments` serves conversations with its base."""
    config, renderer = engine.model_config, engine.renderer
    if not has_template_renderer(config, renderer):
        return ServedChat(refusal=_OTHER_RENDERER)
    tokenizer = renderer.tokenizer
    template = load_chat_template(arguments.chat_template)
    return ServedChat(
        template=resolve_chat_template(tokenizer, template, None, model_config=config),
        special_tokens=tokenizer.special_tokens_map,
        stop_tokens=frozenset(_tokens(tokenizer, [tokenizer.eos_token_id, *stop_token_ids(config)])),
        vocabulary=tokenizer.get_vocab,
        tokenizer=_file(Path(config.tokenizer)),
    )


def _tokens(tokenizer: Any, ids: Iterable[int | None]) -> list[str]:
    return [str(tokenizer.convert_ids_to_tokens(number)) for number in ids if number is not None]


def _file(folder: Path) -> Path | None:
    file = folder / TOKENIZER_FILE
    return file if file.is_file() else None
