import socket
from dataclasses import replace
from pathlib import Path

import pytest

from loramux_server.base_model import ResolvedBase
from loramux_server.cli import serve as command
from loramux_server.errors import CannotStart
from loramux_server.gpus import Gpu
from loramux_server.machine import Machine
from loramux_server.settings import Settings
from tests.helpers.gpu_plans import SHAPES
from tests.server.test_machine import LAPTOP


async def test_an_engine_that_can_not_sleep_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "installed_backend", lambda: "cpu")
    monkeypatch.setattr(command, "find_problems", lambda *_: [])
    settings = Settings(data_dir=tmp_path / "data", training={"sleep": True})
    with pytest.raises(CannotStart, match=r"LORAMUX_TRAINING__SLEEP: only an engine on a GPU can free its memory"):
        await command._serve(settings)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sleep", [False, True])
async def test_gpus_are_measured_after_the_last_servers_trainer_has_freed_its_memory(
    sleep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU-4: next to a trainer that saves its state, the base did not fit, or got a small share for good."""
    from loramux_server import app

    free = [4 << 30]

    async def wait(*_: object) -> None:
        free[0] = 22_500 << 20

    def machine(_: Path) -> Machine:
        return replace(LAPTOP, gpus=(Gpu("NVIDIA L4", 23_034 << 20, 580, (8, 9), free[0]),))

    monkeypatch.setattr(command, "this_machine", machine)
    monkeypatch.setattr(command, "installed_backend", lambda: "cuda")
    monkeypatch.setattr(command, "find_problems", lambda *_: [])
    monkeypatch.setattr(command, "export_engine_environment", lambda *_: tmp_path / "engine.log")
    monkeypatch.setattr(command, "resolve_base", lambda *_, **__: ResolvedBase(tmp_path, "base"))
    monkeypatch.setattr(app, "installed_backend", lambda: "cuda")
    monkeypatch.setattr(app, "describe_base", lambda *_: SHAPES["3B"].describe())
    monkeypatch.setattr(app, "wait_for_trainer", wait)
    started: dict[str, object] = {}

    def parse(_: Path, __: str, options: dict[str, object], **___: object) -> None:
        started.update(options)
        raise CannotStart("vLLM would start")

    monkeypatch.setattr(app, "engine_arguments", parse)
    listener = socket.socket()
    monkeypatch.setattr(command, "bind", lambda *_: listener)
    settings = Settings(data_dir=tmp_path / "data", port=0, adapters={}, training={"sleep": sleep})
    with listener, pytest.raises(CannotStart, match="vLLM would start"):
        await command._serve(settings)
    assert started["gpu_memory_utilization"] == 0.92


@pytest.mark.slow
@pytest.mark.parametrize("fits", [False, True])
async def test_a_gpu_on_which_the_base_can_not_fit_is_refused_before_vllm_starts(
    fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU-4: weights and slots that fit start the engine with the arguments of the plan."""
    from loramux_server import app

    gpu = Gpu("NVIDIA L4", 23_034 << 20, 580, (8, 9), 20_000 << 20)
    monkeypatch.setattr(command, "this_machine", lambda _: replace(LAPTOP, gpus=(gpu,)))
    monkeypatch.setattr(command, "installed_backend", lambda: "cuda")
    monkeypatch.setattr(command, "find_problems", lambda *_: [])
    monkeypatch.setattr(command, "export_engine_environment", lambda *_: tmp_path / "engine.log")
    monkeypatch.setattr(command, "resolve_base", lambda *_, **__: ResolvedBase(tmp_path, "base"))
    monkeypatch.setattr(app, "describe_base", lambda *_: SHAPES["8B" if fits else "70B"].describe())
    started: dict[str, object] = {}

    def start(*_: object, **__: object) -> None:
        raise CannotStart("vLLM was started")

    def parse(_: Path, __: str, options: dict[str, object], **___: object) -> None:
        started.update(options)

    monkeypatch.setattr(app, "vllm_engine", start)
    monkeypatch.setattr(app, "engine_arguments", parse)
    listener = socket.socket()
    monkeypatch.setattr(command, "bind", lambda *_: listener)
    with listener, pytest.raises(CannotStart, match="vLLM was started" if fits else r"131\.4 GiB of weights"):
        await command._serve(Settings(data_dir=tmp_path / "data", port=0, adapters={}))
    if fits:
        assert (started["max_model_len"], started["gpu_memory_utilization"]) == (-1, 0.84)
        assert started["max_lora_rank"] == 16
    else:
        assert started == {}
