"""`loramux calibrate`: what is measured, and what is made of it."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.calibrate import Load
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server


async def calibrated(tiny: TinyServer, *words: str) -> tuple[int, str]:
    command = ["calibrate", "--url", tiny.url, "--rounds", "2", "--streams", "2", "--prompt-tokens", "64", *words]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    return result.exit_code, result.output


async def test_an_output_token_weighs_what_it_takes_beside_an_input_token(
    tiny_base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Load.seconds

    async def seconds(load: Load, prompt: int, output: int) -> float:
        assert await asked(load, prompt, output) > 0  # the server really answers such requests
        return load.streams * (0.01 + prompt * 0.001 + output * 0.0035)

    monkeypatch.setattr(Load, "seconds", seconds)
    async with tiny_server(tmp_path, tiny_base) as tiny:
        code, output = await calibrated(tiny, "--json")
        assert code == 0, output
        found = json.loads(output[output.index("{") :])
        assert found["prefill_seconds_per_token"] == pytest.approx(0.001)
        assert found["decode_weight"] == pytest.approx(3.5)
        assert "LORAMUX_PRICES__DECODE_WEIGHT=3.5" in (await calibrated(tiny))[1]


async def test_what_can_not_be_told_apart_is_not_told(
    tiny_base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seconds(_load: Load, _prompt: int, _output: int) -> float:
        return 1.0

    monkeypatch.setattr(Load, "seconds", seconds)
    async with tiny_server(tmp_path, tiny_base) as tiny:
        code, output = await calibrated(tiny)
    assert code == 1
    assert "try longer prompts" in output


def test_no_server_is_told() -> None:
    result = CliRunner().invoke(app, ["calibrate", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no loramux server answers" in result.output
