import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import verdict
from loramux_loadtests.compare.markdown import BEGIN, END
from loramux_loadtests.servers import ServerSetup
from tests.helpers.comparisons import TrafficLightServer, write_example

pytestmark = pytest.mark.slow

READMES = ("README.md", "a/b/examples/README.md", "a/b/examples/lights/README.md")


@pytest.fixture
def lights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrafficLightServer:
    """A server in place of the one that is started, and one example in place of the three."""
    server = TrafficLightServer()
    examples = tmp_path / "a" / "b" / "examples"
    examples.mkdir(parents=True)
    write_example(examples)
    for readme in READMES:
        (tmp_path / readme).write_text(f"{BEGIN}\nold\n{END}\n")

    def prepare(*_: Any) -> ServerSetup:
        asyncio.run(asyncio.sleep(0))  # as preparing the base does
        return ServerSetup(Path("base"), {}, {}, {})

    @asynccontextmanager
    async def running(*_: Any) -> AsyncIterator[Any]:
        async with server.running() as url:
            yield SimpleNamespace(url=url)

    async def register(url: str, adapters: dict[str, Path]) -> None:
        assert adapters == {"lights": examples / "lights"}

    replacements = {"server_setup": prepare, "running": running, "register_adapters": register}
    for name, replacement in {**replacements, "EXAMPLES": examples, "NAMES": ("lights",)}.items():
        monkeypatch.setattr(verdict, name, replacement)
    monkeypatch.chdir(tmp_path)
    return server


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(verdict.main)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_results_of_the_comparison_are_in_each_readme_and_say_the_same(
    lights: TrafficLightServer, tmp_path: Path
) -> None:
    code, output = run("--passes", "warm")
    assert (code, len(lights.requests)) == (0, 24 * 4), output
    results = json.loads((tmp_path / "a/b/examples/lights/results.json").read_text())
    assert (results["verdict"], results["passes"][0]["items"]) == ("better", 18)
    for readme in READMES:
        text = (tmp_path / readme).read_text()
        assert "**“adapter, short prompt” is better than “base, short prompt” by 0.50" in text
        assert "6 other items, which count for nothing else, chose the reference" in text
        assert "old" not in text


def test_without_recording_nothing_but_the_reports_is_written(lights: TrafficLightServer, tmp_path: Path) -> None:
    code, output = run("--passes", "warm", "--limit", "10", "--no-record")
    assert (code, len(lights.requests)) == (0, 10 * 4), output
    assert not (tmp_path / "a/b/examples/lights/results.json").exists()
    assert all((tmp_path / readme).read_text() == f"{BEGIN}\nold\n{END}\n" for readme in READMES)
    assert (tmp_path / "comparisons" / "lights" / "report.html").exists()
