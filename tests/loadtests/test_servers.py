import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loramux_loadtests import servers
from loramux_loadtests.client import ChatClient
from loramux_loadtests.servers import (
    ServerFailedError,
    ServerSetup,
    ServerSpec,
    group_members,
    loramux_spec,
    register_adapters,
    running,
    stock_module,
    stock_spec,
)
from tests.helpers.fake_openai_process import fake_spec

pytestmark = pytest.mark.slow

SETUP = ServerSetup(
    base=Path("/models/base"),
    adapters={"tone": Path("/all/tone"), "intent": Path("/all/intent")},
    engine={"max_loras": 4, "enforce_eager": True, "enable_prefix_caching": False, "dtype": "float32"},
    environment={"VLLM_SETTING": "1"},
)


def printing_its_group(spec: ServerSpec) -> ServerSpec:
    """The same server after a line with its process id, which is its group's too."""
    return ServerSpec(
        spec.name, ("sh", "-c", 'echo $$; exec "$@"', "sh", *spec.command), spec.environment, spec.port, spec.ready_path
    )


def group_in(log: Path) -> int:
    return int(log.read_text().split()[0])


async def test_a_server_answers_inside_and_is_gone_outside(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(printing_its_group(fake_spec()), log) as server:
        assert server.start_seconds > 0
        assert group_members(group_in(log)) == ["python"]
        async with ChatClient(server.url) as client:
            assert (await client.chat("any", [], max_tokens=3)).text == "xxx"
    assert group_members(group_in(log)) == []


async def test_a_server_is_stopped_when_its_user_is_cancelled(tmp_path: Path) -> None:
    log, up = tmp_path / "log", asyncio.Event()

    async def use() -> None:
        async with running(printing_its_group(fake_spec()), log):
            up.set()
            await asyncio.sleep(60)

    user = asyncio.create_task(use())
    await up.wait()
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert group_members(group_in(log)) == []


async def test_a_server_that_ends_before_it_is_ready_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerFailedError, match=r"(?s)fake exited with code 1 before it was ready.*no engine today"):
        async with running(fake_spec("dies"), tmp_path / "log"):
            pass


async def test_a_server_that_does_not_get_ready_in_time_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 0.2)
    log = tmp_path / "log"
    spec = ServerSpec("sleeper", ("sleep", "60"), {}, servers.free_port(), "/health")
    with pytest.raises(ServerFailedError, match="sleeper was not ready within"):
        async with running(printing_its_group(spec), log):
            pass
    assert group_members(group_in(log)) == []


@pytest.mark.parametrize(("habit", "left"), [("orphans", "sleep"), ("stubborn", "python")])
async def test_what_a_server_leaves_behind_is_killed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, habit: str, left: str
) -> None:
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(servers, "CHILDREN_TIMEOUT_S", 0.1)
    log = tmp_path / "log"
    with pytest.raises(ServerFailedError, match=f"left 1 processes behind, which were killed: {left}"):
        async with running(printing_its_group(fake_spec(habit)), log):
            pass
    await asyncio.sleep(0.1)
    assert group_members(group_in(log)) == []


async def test_a_servers_environment_is_added_to_ours(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = ServerSpec("env", ("sh", "-c", 'echo "$GREETING $HOME"; exit 1'), {"GREETING": "a b"}, 1, "/")
    with pytest.raises(ServerFailedError):
        async with running(spec, log):
            pass
    assert log.read_text().startswith("a b /")


def test_stock_without_adapters_gets_no_lora_arguments() -> None:
    command = " ".join(stock_spec(replace(SETUP, adapters={}, engine={"enable_lora": False})).command)
    assert "--lora-modules" not in command
    assert command.endswith("--no-enable-lora")


def test_both_servers_get_the_same_base_adapters_and_arguments() -> None:
    theirs, ours = stock_spec(SETUP), loramux_spec(SETUP, Path("/data"))
    command = " ".join(theirs.command)
    assert "--model /models/base --served-model-name base " in command
    assert "--enable-lora --lora-modules tone=/all/tone intent=/all/intent " in command
    assert "--max-loras 4 --enforce-eager --no-enable-prefix-caching --dtype float32" in command
    assert ours.command[1:] == ("-m", "loramux_server", "serve")
    assert {name: value for name, value in ours.environment.items() if name != "LORAMUX_PORT"} == {
        "VLLM_SETTING": "1",
        "LORAMUX_HOST": "127.0.0.1",
        "LORAMUX_BASE": "/models/base",
        "LORAMUX_DATA_DIR": "/data",
        "LORAMUX_ALLOWED_ROOTS": '["/all"]',
        "LORAMUX_ENGINE__MAX_LORAS": "4",
        "LORAMUX_ENGINE__ENFORCE_EAGER": "true",
        "LORAMUX_ENGINE__ENABLE_PREFIX_CACHING": "false",
        "LORAMUX_ENGINE__DTYPE": '"float32"',
    }
    assert theirs.environment == SETUP.environment
    assert theirs.port != ours.port


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("entrypoints/launchers/api_server/entry.py", "vllm.entrypoints.launchers.api_server.entry"),
        ("entrypoints/openai/api_server.py", "vllm.entrypoints.openai.api_server"),
    ],
)
def test_vllms_server_is_found_in_either_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, module: str
) -> None:
    path = tmp_path / "vllm" / file
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert stock_module() == module


async def test_adapters_are_registered_one_by_one_and_a_refusal_is_reported() -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.Response(status=201 if len(seen) < 2 else 409, text="taken")

    app = web.Application()
    app.router.add_post("/admin/adapters", handler)
    async with TestServer(app) as server:
        with pytest.raises(ServerFailedError, match="loramux rejected the adapter intent: taken"):
            await register_adapters(str(server.make_url("/")), SETUP.adapters)
    assert seen[0] == {"name": "tone", "source": {"type": "folder", "path": "/all/tone"}}
    assert json.dumps(seen[1]).count("/all/intent") == 1
