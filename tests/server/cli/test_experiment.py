"""`loramux experiment` and `loramux adapter promote --when`, against a server on the fake engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from tests.helpers.experiment_traffic import chat, recorded, user_of
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
Run = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    prices = {"base": {"input": 1, "output": 2}}
    async with tiny_server(tmp_path_factory.mktemp("cli"), tiny_base, prices=prices) as server:
        await server.add("tone")
        yield server


@pytest.fixture
def run(tiny: TinyServer) -> Run:
    async def invoke(*arguments: str) -> Result:
        environment = {"LORAMUX_CLI_URL": tiny.url, "COLUMNS": "80"}
        return await asyncio.to_thread(CliRunner().invoke, app, [*arguments], env=environment)

    return invoke


@pytest.fixture
def style(tmp_path: Path) -> Path:
    path = tmp_path / "style.yaml"
    path.write_text("type: style\nrules:\n  tone: {match: tone}\n", encoding="utf-8")
    return path


async def test_an_experiment_is_started_shown_listed_and_stopped(
    tiny: TinyServer, run: Run, style: Path, tmp_path: Path
) -> None:
    prompt = tmp_path / "prompted.txt"
    prompt.write_text("Be kind.", encoding="utf-8")
    started = await run(
        "experiment", "start", "tone", "--baseline", str(prompt), "--share", "50", "--scorer", str(style), "--json"
    )
    assert started.exit_code == 0, started.output
    experiment = json.loads(started.stdout)
    assert experiment["share"] == 0.5
    assert experiment["reference"]["prompt"] == [{"role": "system", "content": "Be kind."}]
    for number in range(40):
        await chat(tiny, f"user-{number}", max_tokens=8)
    await recorded(tiny, experiment, 40)
    shown = (await run("experiment", "show", "tone")).stdout
    assert "base with 1 messages before each request; its system message replaces" in " ".join(shown.split())
    assert "adapter is better than baseline: +1.00 [+" in shown
    assert max(map(len, shown.splitlines())) <= 80
    listed = (await run("experiment", "list")).stdout
    assert experiment["id"] in listed
    assert "better" in listed
    stopped = await run("experiment", "stop", experiment["id"])
    assert "stopped: It was stopped." in stopped.stdout


async def test_a_version_is_promoted_when_it_is_shown_to_be_better(tiny: TinyServer, run: Run, tmp_path: Path) -> None:
    old, new = await tiny.add("shop"), await tiny.add("shop", 1)
    assert (await run("adapter", "promote", old)).exit_code == 0
    scorer = tmp_path / "new.yaml"
    scorer.write_text(f"type: style\nrules:\n  new: {{match: {new.partition('@')[2][:6]!r}}}\n", encoding="utf-8")
    started = await run(
        "adapter",
        "promote",
        new,
        "--when",
        "better",
        "--share",
        "50",
        "--limit",
        "errors=0.02",
        "--scorer",
        str(scorer),
        "--json",
    )
    assert started.exit_code == 0, started.output
    experiment = json.loads(started.stdout)
    assert experiment["promotion"] == {"when": "better", "limits": {"errors": 0.02, "latency": None, "quality": None}}
    for number in range(25):
        for variant in ("candidate", "current"):
            await chat(tiny, user_of(experiment, variant, number), "shop", max_tokens=24)
    await recorded(tiny, experiment, 50)
    shown = (await run("experiment", "show", "shop")).stdout
    assert "promoted" in shown
    assert "when better; limits: errors 0.02" in shown


async def test_feedback_is_shown_by_route(tiny: TinyServer, run: Run) -> None:
    assert "no feedback" in (await run("experiment", "feedback")).stdout
    body = {"model": "tone", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    request_id = (await tiny.http.post("/v1/chat/completions", json=body)).headers["x-request-id"]
    await tiny.http.post("/v1/feedback", json={"request_id": request_id, "score": 0.25})
    shown = (await run("experiment", "feedback", "--days", "2")).stdout
    assert "tone@" in shown
    assert shown.split()[-2:] == ["1", "0.25"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("start", "tone", "--baseline", "missing.txt"), "expected a prompt file"),
        (("start", "tone", "--baseline", "base", "--judge", "x"), "belong together"),
        (("start", "tone", "--baseline", "base", "--scorer", "missing.yaml"), "can't be read"),
        (("start", "nobody", "--baseline", "base"), "No adapter"),
        (("start", "tone", "--baseline", "tone@ffff"), "unknown version"),
        (("start", "tone", "--baseline", "base", "--share", "0"), "--share"),
        (("start", "tone", "--baseline", "base", "--share", "nan"), "share"),
        (("show", "exp_none"), "There is no experiment"),
        (("show", "nobody"), "neither the id of an experiment"),
        (("stop", "../x"), "name must have"),
        (("stop", "exp_/../x"), "Not Found"),
    ],
)
async def test_mistakes_are_explained(run: Run, arguments: tuple[str, ...], message: str) -> None:
    failed = await run("experiment", *arguments)
    assert failed.exit_code != 0
    assert message in failed.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tone",), "NAME DIGEST or NAME@DIGEST"),
        (("tone@abcd", "abcd"), "NAME DIGEST or NAME@DIGEST"),
        (("tone@abcd", "--limit", "errors=1"), "--limit needs --when"),
        (("tone@abcd", "--when", "better", "--limit", "speed=1"), "invalid --limit"),
        (("tone@abcd", "--when", "better", "--limit", "errors=nan"), "invalid --limit"),
        (("tone@abcd", "--when", "nicer"), "nicer"),
    ],
)
async def test_mistakes_of_promote_are_explained(run: Run, arguments: tuple[str, ...], message: str) -> None:
    failed = await run("adapter", "promote", *arguments)
    assert failed.exit_code != 0
    assert message in failed.output.replace("\n", " ")


async def test_an_empty_prompt_file_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(" \n", encoding="utf-8")
    failed = await run("experiment", "start", "tone", "--baseline", str(path))
    assert "the file is empty" in failed.output.replace("\n", " ")


async def test_a_scorer_file_that_is_no_mapping_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1", encoding="utf-8")
    failed = await run("experiment", "start", "tone", "--baseline", "base", "--scorer", str(path))
    assert "expected a mapping" in failed.output.replace("\n", " ")
