"""What the intake learns about the base's conversations, by vLLM's own configuration and tokenizer."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loramux_server.configured_adapters import FRONTEND_DEFAULTS
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.served_chat import served_chat
from tests.helpers.chat_templates import BRACKETS, CHATML, write_tokenizer

OPTIONS = FRONTEND_DEFAULTS | {"max_loras": 1, "max_cpu_loras": 1, "max_model_len": 64, "dtype": "float32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "base"
    vocabulary = write_tokenizer(folder, BRACKETS)
    shapes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary} | shapes
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64, "eos_token_id": 1}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    return folder


def started(base: Path, **options: Any) -> Any:
    arguments = engine_arguments(base, "tiny", OPTIONS | options)
    return FakeEngine(arguments), arguments


def test_template_and_tokens_are_those_of_the_base(base: Path) -> None:
    chat = served_chat(*started(base))
    assert (chat.template, chat.refusal, chat.tokenizer) == (BRACKETS, None, base / "tokenizer.json")
    assert chat.special_tokens["eos_token"] == "<|im_end|>"
    assert chat.stop_tokens == {"<|im_end|>", "<|user|>"}  # of the tokenizer, and of generation_config.json
    assert chat.vocabulary is not None
    assert chat.vocabulary()["<s>"] == 0


def test_the_template_of_the_settings_is_the_one_that_is_served(base: Path) -> None:
    assert served_chat(*started(base, chat_template=CHATML)).template == CHATML


def test_a_base_with_its_own_code_for_conversations_uses_no_templates(base: Path) -> None:
    engine, arguments = started(base)
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"))
    chat = served_chat(SimpleNamespace(model_config=config, renderer=engine.renderer), arguments)
    assert "own code for conversations" in (chat.refusal or "")
