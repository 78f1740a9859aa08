"""Training's rendering of conversations against that of the real server, for the demo's base."""

import json
from typing import Any

import pytest
from transformers import AutoTokenizer

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer
from loramux_adapters.finetuning.datasets.conversations import parse_conversation
from loramux_adapters.finetuning.datasets.examples import examples_of
from tests.conftest import RealServer

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "  Which one?\n"}
ANSWER = {"role": "assistant", "content": "This <one>, é🙂"}


@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER]])
async def test_a_training_prompt_has_the_tokens_of_a_request(real: RealServer, messages: list[dict[str, str]]) -> None:
    """T7, T8: training, counts and serving use one rendering."""
    planner = real.server.job_supervisor.runner.planner
    renderer = ChatRenderer(AutoTokenizer.from_pretrained(planner.base_folder), planner.rendering)
    example = ExampleTokenizer(renderer).tokenize(messages, {"role": "assistant", "content": "Yes."})
    body = {"model": real.base.name, "messages": messages, "add_generation_prompt": True}
    served = (await real.http.post("/tokenize", json=body)).json()["tokens"]
    assert example.prompt == served
    asked = await real.client.chat.completions.create(model=real.base.name, messages=messages, max_tokens=1)  # type: ignore[arg-type]
    assert asked.usage
    assert asked.usage.prompt_tokens == len(served)
    whole = body | {"messages": [*messages, {"role": "assistant", "content": "Yes."}], "add_generation_prompt": False}
    assert example.prompt + example.answer == (await real.http.post("/tokenize", json=whole)).json()["tokens"]


PARTS = [{"type": "input_text", "text": "Which"}, {"type": "text", "text": "one?"}]
LATE = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    "messages",
    [
        [USER | {"content": PARTS, "name": "Ann"}],
        [SYSTEM | {"content": ""}, USER, LATE],
        [SYSTEM, LATE, USER, ANSWER, LATE, USER],
        [USER, {"role": "developer", "content": "Be brief."}, ANSWER, LATE, USER],
    ],
    ids=["parts", "empty and late", "several", "developer"],
)
async def test_a_line_of_a_training_file_has_the_tokens_of_the_same_request(
    real: RealServer, messages: list[dict[str, Any]]
) -> None:
    """C9: system messages, parts and answers of clients, as vLLM renders them; a served answer is taken back."""
    asked = await real.client.chat.completions.create(model=real.base.name, messages=messages, max_tokens=4)  # type: ignore[arg-type]
    line = {"messages": [*messages, asked.choices[0].message.model_dump()]}
    conversation = parse_conversation(json.dumps(line).encode())
    assert conversation.ignored_keys == frozenset()
    example = examples_of([conversation])[-1]
    planner = real.server.job_supervisor.runner.planner
    renderer = ChatRenderer(AutoTokenizer.from_pretrained(planner.base_folder), planner.rendering)
    trained = ExampleTokenizer(renderer).tokenize(example["prompt"], example["completion"][0], example["tools"])
    body = {"model": real.base.name, "messages": messages, "add_generation_prompt": True}
    assert trained.prompt == (await real.http.post("/tokenize", json=body)).json()["tokens"]
    assert asked.usage
    assert asked.usage.prompt_tokens == len(trained.prompt)
