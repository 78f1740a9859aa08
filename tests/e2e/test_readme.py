"""The README's commands, as a new user runs them."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loramux_loadtests.compare.plan import read_plan
from loramux_loadtests.examples import EXAMPLES
from tests.conftest import REPOSITORY
from tests.helpers.server_process import reuse_demo_base, serving

README = REPOSITORY / "README.md"
DEFAULT_URL = "http://127.0.0.1:8000"


def commands(page: Path = README) -> list[str]:
    """Return all lines of a page's console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def documented_chats() -> list[str]:
    """Return every command of README and documentation that asks a model."""
    pages = [README, *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return [line for page in pages for line in commands(page) if "/v1/chat/completions" in line]


def answer(command: str) -> str:
    """Return the output of a command."""
    return subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, timeout=300).stdout


def whole_answer(command: str) -> dict[str, Any]:
    """Return the response to a command that asks a model, after checking that the answer is not cut off."""
    response: dict[str, Any] = json.loads(answer(command))
    [choice] = response["choices"]
    assert choice["finish_reason"] == "stop", f"cut off: {choice['message']['content']!r}, asked by {command}"
    if response["model"].startswith("order-json"):
        scorer = read_plan(EXAMPLES / "order-json" / "compare.yaml").scorer
        assert scorer.score(choice["message"]["content"], '{"any": "order"}')["valid"] == 1, choice["message"]
    return response


def test_the_first_screen_shows_how_to_serve_try_and_test() -> None:
    serve, *tries, test = commands()[:7]
    assert (serve, test) == ("make serve", "make test")
    assert all(line.startswith("curl -s http://127.0.0.1:8000/") for line in tries)
    assert len(tries) == 5
    assert "make lint test" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.engine
def test_make_serve_and_every_documented_or_printed_command_gives_a_whole_answer(tmp_path: Path) -> None:
    """T14: no command is cut off by its max_tokens, and order-json answers with valid JSON in the first minute."""
    reuse_demo_base(tmp_path / "data")
    with serving(["make", "serve"], tmp_path / "data") as server:
        url = server.wait_until_serving()
        base, fine_tune, order, *_ = [whole_answer(line.replace(DEFAULT_URL, url)) for line in documented_chats()]
        assert "Paris" in base["choices"][0]["message"]["content"]
        assert fine_tune["choices"][0]["message"]["content"].strip() == "cancel_order"
        assert fine_tune["model"].startswith("support-intent@")
        assert order["model"].startswith("order-json@")
        models, metrics = (answer(line.replace(DEFAULT_URL, url)) for line in commands()[4:6])
        assert len(json.loads(models)["data"]) == 4
        assert 'loramux_requests_total{adapter="support-intent"' in metrics

        printed = [line for line in server.output.splitlines() if line.startswith("curl ")]
        assert len(printed) == 5
        *chats, page = printed
        answered = {whole_answer(line)["model"].partition("@")[0] for line in chats}
        assert {"house-tone", "order-json", "support-intent"} < answered
        assert "loramux_tokens_total" in answer(page)

        listed = answer(f".venv/bin/loramux adapter list --json --url {url}")
        assert {adapter["name"] for adapter in json.loads(listed)["data"]} == {
            "house-tone",
            "order-json",
            "support-intent",
        }
        os.killpg(server.process.pid, signal.SIGTERM)
        server.process.wait(30)
        assert server.left_behind() == []
