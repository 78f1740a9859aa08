"""Training's rendering of conversations against that of the real server, for the demo's base."""

import pytest
from transformers import AutoTokenizer

from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer
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
