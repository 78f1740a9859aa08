"""The README's commands, as a new user runs them."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.helpers.server_process import reuse_demo_base, serving

README = (REPOSITORY / "README.md").read_text()


def commands() -> list[str]:
    """Return all lines of the README's console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def answer(command: str) -> str:
    """Return the output of a command."""
    return subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, timeout=300).stdout


def test_the_first_screen_shows_how_to_serve_try_and_test() -> None:
    serve, *tries, test = commands()[:6]
    assert (serve, test) == ("make serve", "make test")
    assert all(line.startswith("curl -s http://127.0.0.1:8000/") for line in tries)
    assert len(tries) == 4
    assert "make lint test" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.engine
def test_make_serve_serves_the_readmes_examples_and_prints_working_commands(tmp_path: Path) -> None:
    reuse_demo_base(tmp_path / "data")
    with serving(["make", "serve"], tmp_path / "data") as server:
        url = server.wait_until_serving()
        base, fine_tune, models, metrics = (
            answer(line.replace("http://127.0.0.1:8000", url)) for line in commands()[1:5]
        )
        assert "Paris" in json.loads(base)["choices"][0]["message"]["content"]
        assert json.loads(fine_tune)["choices"][0]["message"]["content"].strip() == "cancel_order"
        assert json.loads(fine_tune)["model"].startswith("support-intent@")
        assert len(json.loads(models)["data"]) == 4
        assert 'loramux_requests_total{adapter="support-intent"' in metrics

        printed = [line for line in server.output.splitlines() if line.startswith("curl ")]
        assert len(printed) == 5
        *chats, page = (answer(line) for line in printed)
        assert all(json.loads(chat)["choices"][0]["message"]["content"] for chat in chats)
        assert "loramux_tokens_total" in page

        listed = answer(f".venv/bin/loramux adapter list --json --url {url}")
        assert {adapter["name"] for adapter in json.loads(listed)["data"]} == {
            "house-tone",
            "order-json",
            "support-intent",
        }
        os.killpg(server.process.pid, signal.SIGTERM)
        server.process.wait(30)
        assert server.left_behind() == []
