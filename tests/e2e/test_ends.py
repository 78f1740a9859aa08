"""Exit paths of a server: signal, killed engine, interrupted start, failed start."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.helpers.server_process import LORAMUX, ServeProcess, reuse_demo_base, serving

pytestmark = pytest.mark.slow

STORY: dict[str, Any] = {
    "model": "SmolLM2-135M-Instruct",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "ignore_eos": True,
    "stream": True,
}


class Stream(threading.Thread):
    """A streamed request in a thread; its first event sets `started`, and `text` is all of the response."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self._url, self._body = f"{url}/v1/chat/completions", STORY | {"max_tokens": tokens}
        self.started, self.text, self.error = threading.Event(), "", ""
        self.start()
        assert self.started.wait(120)

    def run(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=120) as response:
                for piece in response.iter_text():
                    self.text += piece
                    self.started.set()
        except httpx.HTTPError as error:
            self.error = repr(error)
        self.started.set()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServeProcess]:
    reuse_demo_base(tmp_path / "data")
    with serving([LORAMUX, "serve"], tmp_path / "data") as started:
        yield started


@pytest.mark.engine
def test_sigterm_to_the_whole_group_finishes_streams_refuses_new_work_and_ends_with_0(server: ServeProcess) -> None:
    url = server.wait_until_serving()
    stream = Stream(url, tokens=100)
    os.killpg(server.process.pid, signal.SIGTERM)
    time.sleep(0.5)
    refused = httpx.post(f"{url}/v1/chat/completions", json=STORY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_overloaded")
    assert "retry-after" in refused.headers
    assert httpx.get(f"{url}/ready").status_code == 503
    assert httpx.get(f"{url}/health").status_code == 200
    stream.join(60)
    assert '"finish_reason":"length"' in stream.text
    assert stream.text.rstrip().endswith("data: [DONE]")
    assert server.process.wait(30) == 0
    assert server.left_behind() == []
    assert "Traceback" not in server.output


@pytest.mark.engine
def test_when_the_engine_is_killed_open_requests_get_an_error_and_the_server_ends_with_1(server: ServeProcess) -> None:
    url = server.wait_until_serving()
    stream = Stream(url, tokens=1500)
    engine = server.named("VLLM::EngineCore")[0]
    killed = time.monotonic()
    engine.kill()
    stream.join(30)
    assert '"engine_dead"' in stream.text, (stream.text[-500:], stream.error)
    assert server.process.wait(30) == 1
    assert "ASGI" not in server.output  # Python's resource tracker may have a traceback of its own
    assert time.monotonic() - killed < 10
    assert server.left_behind() == []


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_no_process_running(server: ServeProcess, number: signal.Signals) -> None:
    server.wait_for_output("starting vLLM", 120)
    deadline = time.monotonic() + 60
    while not server.named("VLLM"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(server.process.pid, number)
    assert server.process.wait(15) == 130
    assert server.left_behind() == []
    assert "Traceback" not in server.output


def failed_start(tmp_path: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Return the exit code and output of a `loramux serve` that can't start."""
    with serving([LORAMUX, "serve", *options], tmp_path / "data", REPOSITORY, **environment) as started:
        code = started.process.wait(120)
        return code, started.output


def test_a_port_in_use_is_reported_before_the_engine_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = failed_start(tmp_path, "--port", port)
    assert code == 2
    assert f"127.0.0.1:{port}" in output
    assert "LORAMUX_PORT" in output
    assert "starting vLLM" not in output


def test_an_unknown_setting_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    code, output = failed_start(tmp_path, LORAMUX_PROT="1")
    assert code == 2
    assert "LORAMUX_PORT" in output


def test_a_server_on_a_public_address_does_not_start_without_a_key(tmp_path: Path) -> None:
    code, output = failed_start(tmp_path, "--host", "0.0.0.0")
    assert code == 2
    assert "LORAMUX_API_KEYS" in output


@pytest.mark.parametrize(
    ("base", "message"), [("/does/not/exist", "unknown base"), (".", "config.json"), ("/etc/../etc", "config.json")]
)
def test_a_missing_or_invalid_base_is_reported(tmp_path: Path, base: str, message: str) -> None:
    code, output = failed_start(tmp_path, "--base", base)
    assert code == 2
    assert message in output
    assert "Traceback" not in output
