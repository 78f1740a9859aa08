"""How a server ends: told to stop, its engine killed, broken off while it starts, or unable to start at all."""

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

from tests.helpers.server_process import LORAMUX, Serving, reuse_demo_base, serving

STORY: dict[str, Any] = {
    "model": "SmolLM2-135M-Instruct",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "ignore_eos": True,
    "stream": True,
}


class Stream(threading.Thread):
    """A streamed request in a thread: `begun` is set by its first event, and `text` is all that came."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self._url, self._body = f"{url}/v1/chat/completions", STORY | {"max_tokens": tokens}
        self.begun, self.text, self.error = threading.Event(), "", ""
        self.start()
        assert self.begun.wait(120)

    def run(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=120) as response:
                for piece in response.iter_text():
                    self.text += piece
                    self.begun.set()
        except httpx.HTTPError as error:
            self.error = repr(error)
        self.begun.set()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    reuse_demo_base(tmp_path / "data")
    with serving([LORAMUX, "serve"], tmp_path / "data") as started:
        yield started


@pytest.mark.engine
def test_sigterm_to_the_whole_group_finishes_streams_refuses_new_work_and_ends_with_0(server: Serving) -> None:
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
    assert "Traceback" not in server.said


@pytest.mark.engine
def test_when_the_engine_is_killed_open_requests_get_an_error_and_the_server_ends_with_1(server: Serving) -> None:
    url = server.wait_until_serving()
    stream = Stream(url, tokens=1500)
    engine = server.named("VLLM::EngineCore")[0]
    killed = time.monotonic()
    engine.kill()
    stream.join(30)
    assert '"error"' in stream.text, stream.error
    assert server.process.wait(30) == 1
    assert time.monotonic() - killed < 10
    assert server.left_behind() == []


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_broken_off_leaves_nothing_running(server: Serving, number: signal.Signals) -> None:
    server.wait_until_said("starting vLLM", 120)
    deadline = time.monotonic() + 60
    while not server.named("VLLM"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(server.process.pid, number)
    assert server.process.wait(15) == 130
    assert server.left_behind() == []
    assert "Traceback" not in server.said


def ended(tmp_path: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Exit code and words of a `loramux serve` that can't start."""
    with serving([LORAMUX, "serve", *options], tmp_path / "data", **environment) as started:
        code = started.process.wait(120)
        return code, started.said


def test_a_port_in_use_is_told_before_the_engine_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = ended(tmp_path, "--port", port)
    assert code == 2
    assert f"127.0.0.1:{port}" in said
    assert "LORAMUX_PORT" in said
    assert "starting vLLM" not in said


def test_an_unknown_setting_is_told_with_the_one_it_is_close_to(tmp_path: Path) -> None:
    code, said = ended(tmp_path, LORAMUX_PROT="1")
    assert code == 2
    assert "LORAMUX_PORT" in said


def test_a_server_that_others_could_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    code, said = ended(tmp_path, "--host", "0.0.0.0")
    assert code == 2
    assert "LORAMUX_API_KEYS" in said


@pytest.mark.parametrize(
    ("base", "says"), [("/does/not/exist", "neither"), (".", "config.json"), ("/etc/../etc", "config.json")]
)
def test_a_base_that_is_missing_or_no_model_is_told(tmp_path: Path, base: str, says: str) -> None:
    code, said = ended(tmp_path, "--base", base)
    assert code == 2
    assert says in said
    assert "Traceback" not in said
