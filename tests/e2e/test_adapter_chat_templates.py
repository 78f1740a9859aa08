"""An adapter's own chat template on the real engine: it answers as on a base that was started with this template."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from tests.conftest import REPOSITORY
from tests.helpers.adapter_files import lora_config, lora_tensors, write_adapter
from tests.helpers.chat_templates import CHATML
from tests.helpers.llama_bases import LlamaSizes
from tests.helpers.reasoning_base import HEADS, HIDDEN, INTERMEDIATE, LAYERS, write_reasoning_base
from tests.helpers.server_process import LORAMUX, serving

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OWN = (
    "{% if messages[0].role != 'system' %}You are Ada.|{% endif %}"
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}|{% endfor %}"
    "{% if add_generation_prompt %}[Ada] {% endif %}"
)
ADA = "{% set name = 'Ada' %}" + OWN
QUESTIONS = ["Which?", "Who are you?", "a", "What is the capital of France?"]
OPTIONS = {
    "LORAMUX_ENGINE__DTYPE": "float32",  # the same answers in every batch
    "LORAMUX_ENGINE__KV_CACHE_MEMORY_BYTES": str(64 << 20),
    "LORAMUX_ENGINE__MAX_MODEL_LEN": "256",
}


SIZES = LlamaSizes(HIDDEN, INTERMEDIATE, HEADS, HEADS, HIDDEN // HEADS, LAYERS)
WEIGHTS = lora_tensors(layers=tuple(range(LAYERS)), sizes=SIZES)


class Answer(NamedTuple):
    """An answer with the log-probability of each of its tokens, and the number of tokens of its prompt."""

    text: str
    logprobs: list[float]
    prompt_tokens: int


@contextmanager
def served(base: Path, folder: Path, adapters: dict[str, Path], **environment: str) -> Iterator[str]:
    """Serve until the context ends; yields the URL."""
    environment |= {
        "LORAMUX_ADAPTERS": json.dumps({name: str(path) for name, path in adapters.items()}),
        "LORAMUX_ALLOWED_ROOTS": json.dumps([str(folder.parent)]),
    }
    command = [LORAMUX, "serve", "--base", str(base)]
    with serving(command, folder, REPOSITORY, **OPTIONS | environment) as started:
        yield started.wait_until_serving()


async def ask(client: openai.AsyncOpenAI, model: str, question: str) -> Answer:
    messages: Any = [{"role": "user", "content": question}]
    answer = await client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=24, logprobs=True, top_logprobs=1
    )
    [choice] = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert answer.usage is not None
    logprobs = [token.logprob for token in choice.logprobs.content]
    return Answer(choice.message.content or "", logprobs, answer.usage.prompt_tokens)


def ask_all(url: str, models: list[str]) -> dict[str, list[Answer]]:
    """Ask all models all questions in one batch."""
    return asyncio.run(_ask_all(url, models))


async def _ask_all(url: str, models: list[str]) -> dict[str, list[Answer]]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(*(ask(client, model, text) for text in QUESTIONS for model in models))
    return {model: list(answers[position :: len(models)]) for position, model in enumerate(models)}


def assert_equal(found: list[Answer], expected: list[Answer]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.prompt_tokens) == (theirs.text, theirs.prompt_tokens)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_a_route_with_its_own_template_answers_as_a_base_that_was_started_with_it(tmp_path: Path) -> None:
    """A10: alone and in one batch with the base and an adapter without one."""
    base = write_reasoning_base(tmp_path / "tiny", CHATML)
    plain = write_adapter(tmp_path / "plain", lora_config(), WEIGHTS)
    own = write_adapter(tmp_path / "own", lora_config(), WEIGHTS)
    (own / "chat_template.jinja").write_text(ADA)
    routes = ["own", "plain", "tiny"]
    with served(base, tmp_path / "ours", {"own": own, "plain": plain}) as url:
        together = ask_all(url, routes)
        alone = {model: ask_all(url, [model])[model] for model in routes}
    with served(base, tmp_path / "stock", {"plain": plain}, LORAMUX_ENGINE__CHAT_TEMPLATE=ADA) as url:
        expected = ask_all(url, ["plain"])["plain"]
    for model in routes:
        assert_equal(together[model], alone[model])
    assert_equal(together["own"], expected)
    assert [answer.prompt_tokens for answer in alone["plain"]] != [answer.prompt_tokens for answer in expected]
