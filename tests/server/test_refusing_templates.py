"""A base whose chat template refuses some conversations, as Gemma's does: every way in says which and why."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation_plan import plan_evaluation
from tests.helpers.chat_templates import REFUSING
from tests.helpers.tiny_server import TinyServer, tiny_server, write_base

SYSTEM, USER = {"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
NO_SYSTEM, ALTERNATE = "System role not supported", "Conversation roles must alternate"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gemma(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    folder = tmp_path_factory.mktemp("gemma")
    base = write_base(folder / "base")
    config = base.path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": REFUSING}))
    async with tiny_server(folder, base) as server:
        yield server


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/chat/completions", {"messages": [SYSTEM, USER]}, NO_SYSTEM),
        ("/v1/chat/completions", {"messages": [SYSTEM, USER], "stream": True}, NO_SYSTEM),
        ("/v1/chat/completions", {"messages": [USER, USER]}, ALTERNATE),
        ("/v1/chat/completions", {"messages": [USER], "tools": TOOLS}, "Tools are not supported"),
        ("/v1/responses", {"input": "Hi", "instructions": "Be brief"}, NO_SYSTEM),
        ("/v1/messages", {"messages": [USER], "system": "Be brief", "max_tokens": 9}, NO_SYSTEM),
        ("/v1/messages/count_tokens", {"messages": [USER], "system": "Be brief"}, NO_SYSTEM),
        ("/tokenize", {"messages": [SYSTEM, USER]}, NO_SYSTEM),
    ],
)
@pytest.mark.parametrize("route", ["tiny", "tone"])
async def test_a_request_that_the_template_refuses_is_a_400_with_the_templates_reason(
    gemma: TinyServer, path: str, body: dict[str, Any], reason: str, route: str
) -> None:
    """A15."""
    if not gemma.server.adapter_service.resolver.get("tone"):
        await gemma.add("tone")
    answer = await gemma.http.post(path, json={"model": route} | body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text
    assert reason in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text


async def test_a_training_file_that_the_template_refuses_is_a_400_with_the_lines(gemma: TinyServer) -> None:
    """A15: a system message ended in a traceback."""
    lines = [{"messages": [USER, ANSWER]} for _ in range(12)]
    lines[3]["messages"] = [SYSTEM, USER, ANSWER]
    lines[7]["messages"] = [USER, USER, ANSWER]
    content = "\n".join(map(json.dumps, lines)).encode()
    files = {"file": ("train.jsonl", content)}
    answer = await gemma.http.post("/v1/files", files=files, data={"purpose": "fine-tune"})
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert f"line 4: the base's chat template refuses it: {NO_SYSTEM} (accepted without the system message" in message
    assert f"line 8: the base's chat template refuses it: {ALTERNATE}" in message


async def test_the_comparison_of_a_job_asks_only_what_the_template_accepts(gemma: TinyServer, tmp_path: Path) -> None:
    """A15: instructions were put into a system message, so there was no comparison."""
    training, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    for file, numbers in ((training, range(30)), (validation, range(30, 40))):
        chats = [[{"role": "user", "content": f"q{n}"}, ANSWER | {"content": "abc"[n % 3]}] for n in numbers]
        file.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    runner = gemma.server.job_supervisor.runner
    evaluator = runner.publisher.evaluator
    assert evaluator
    plan = plan_evaluation(training, validation, evaluator.token_counter, max_context_tokens=200, max_questions=5)
    assert [len(prompt.shots) > 0 for prompt in plan.prompts][:2] == [False, False]
    for prompt in plan.prompts:
        assert (await evaluator.complete(None, prompt.add_to([USER]), 9)).output_tokens == 9


async def test_a_question_of_an_evaluation_that_the_template_refuses_is_named_as_its_cause(gemma: TinyServer) -> None:
    """A15."""
    evaluator = gemma.server.job_supervisor.runner.publisher.evaluator
    assert evaluator
    with pytest.raises(EvaluationFailed, match=f"was refused: .*{NO_SYSTEM}"):
        await evaluator.complete(None, [SYSTEM, USER], 9)
