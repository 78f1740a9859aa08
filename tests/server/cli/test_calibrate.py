"""`loramux calibrate`: the measurement, and the weight computed from it."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.calibrate import ConcurrentRequests
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server


async def calibrated(tiny: TinyServer, *arguments: str) -> tuple[int, str]:
    command = ["calibrate", "--url", tiny.url, "--rounds", "2", "--streams", "2", "--prompt-tokens", "64", *arguments]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    return result.exit_code, result.output


@pytest.mark.slow
async def test_the_weight_is_the_time_of_an_output_token_relative_to_an_input_token(
    tiny_base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_seconds = ConcurrentRequests.seconds

    async def seconds(requests: ConcurrentRequests, prompt: int, output: int) -> float:
        assert await real_seconds(requests, prompt, output) > 0  # the server really serves such requests
        return requests.streams * (0.01 + prompt * 0.001 + output * 0.0035)

    monkeypatch.setattr(ConcurrentRequests, "seconds", seconds)
    async with tiny_server(tmp_path, tiny_base) as tiny:
        code, output = await calibrated(tiny, "--json")
        assert code == 0, output
        found = json.loads(output[output.index("{") :])
        assert found["prefill_seconds_per_token"] == pytest.approx(0.001)
        assert found["decode_weight"] == pytest.approx(3.5)
        assert "loramux prices set decode_weight=3.5" in (await calibrated(tiny))[1]


async def test_equal_times_give_an_error(
    tiny_base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seconds(_requests: ConcurrentRequests, _prompt: int, _output: int) -> float:
        return 1.0

    monkeypatch.setattr(ConcurrentRequests, "seconds", seconds)
    async with tiny_server(tmp_path, tiny_base) as tiny:
        code, output = await calibrated(tiny)
    assert code == 1
    assert "set a larger --prompt-tokens" in output


def test_a_missing_server_is_reported() -> None:
    result = CliRunner().invoke(app, ["calibrate", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no loramux server responds" in result.output
