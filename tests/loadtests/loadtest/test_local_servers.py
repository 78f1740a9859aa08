from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loramux_loadtests.loadtest import local_servers
from loramux_loadtests.loadtest.local_servers import demo_base, without_proof
from loramux_loadtests.servers import ServerSetup, ServerSpec


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ServerSpec]:
    """The servers that were started, each of which creates the demo's base."""
    starts: list[ServerSpec] = []

    @asynccontextmanager
    async def running(spec: ServerSpec, log: Path) -> AsyncIterator[None]:
        starts.append(spec)
        base = Path(spec.environment["LORAMUX_DATA_DIR"]) / "bases" / "tiny"
        base.mkdir(parents=True)
        (base / "config.json").write_text("{}")
        yield

    monkeypatch.setattr(local_servers, "running", running)
    monkeypatch.chdir(tmp_path)
    return starts


async def test_the_demos_base_is_created_once_by_a_start_of_loramux(tmp_path: Path, starts: list[ServerSpec]) -> None:
    steps: list[str] = []
    assert await demo_base(steps.append) == tmp_path / ".loramux" / "bases" / "tiny"
    assert await demo_base(steps.append) == tmp_path / ".loramux" / "bases" / "tiny"
    assert [(spec.name, spec.environment["LORAMUX_BASE"]) for spec in starts] == [("loramux", "demo")]
    assert steps == ["starting loramux once to create the demo's base model"]


def test_adapters_without_a_proof_keep_the_rest_of_the_setup() -> None:
    setup = ServerSetup(Path("/base"), {"tone": Path("/tone")}, {"max_loras": 2}, {"A": "b"})
    expected = ServerSetup(Path("/base"), {}, {"max_loras": 2}, {"A": "b", "LORAMUX_PROOF": "false"})
    assert without_proof(setup, {}) == expected
