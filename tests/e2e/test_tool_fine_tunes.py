"""A fine-tune that calls tools, on the real engine: trained by a job, asked with the official client."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.test_reasoning_bases import messages, run_job, served
from tests.helpers.chat_templates import CHATML
from tests.helpers.reasoning_base import COLORS, write_reasoning_base

pytestmark = [pytest.mark.engine, pytest.mark.slow]

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]},
    },
}


def lines(questions: dict[str, str]) -> bytes:
    """Return a training file: which color to paint each of these with."""
    written = []
    for question, color in questions.items():
        function = {"name": "paint", "arguments": json.dumps({"color": color})}
        call = {"id": "call_1", "type": "function", "function": function}
        asked = [{"role": "user", "content": question}]
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        written.append(json.dumps({"messages": [*asked, answer], "tools": [TOOL]}))
    return "\n".join(written).encode()


def called(client: openai.OpenAI, model: str, question: str) -> list[tuple[str, str]]:
    """Return the calls of an answer, which is streamed."""
    asked: Any = [{"role": "user", "content": question}]
    with client.chat.completions.stream(
        model=model, messages=asked, tools=[TOOL], temperature=0, max_tokens=128
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


def test_a_job_on_calls_makes_an_adapter_that_calls_tools(tmp_path: Path) -> None:
    """C16: a base whose own template shows no tools gets one that does by a setting."""
    base = write_reasoning_base(tmp_path / "tiny", CHATML, context=640)
    answers = {f"wall {number}": color for number, color in enumerate(COLORS)}
    held_out = {f"door {number}": color for number, color in enumerate(COLORS)}
    with served(base, tmp_path / "server", LORAMUX_ENGINE__CHAT_TEMPLATE="chatml-tools") as client:
        job = run_job(client, "tiny", training=lines(answers), validation=lines(held_out))
        assert job.status == "succeeded", messages(client, job.id)
        assert "Self-test: 12 of 12 training questions were answered as trained" in messages(client, job.id)
        for question in answers:
            [(name, arguments)] = called(client, job.fine_tuned_model, question)
            # The right color is too much for random weights: benchmarks/finetune/tool_quality measures arguments.
            assert (name, json.loads(arguments).keys()) == ("paint", {"color"})
        comparison = json.loads(client.files.content(job.result_files[-1]).content)
        assert comparison["measure"] in {"right call", "right arguments", "right tool", "valid call"}
        assert comparison["items"][0]["tools"] == [TOOL]
