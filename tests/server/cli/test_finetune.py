"""`loramux finetune` against a server on the fake engine; its base has no weights, so the trainer fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from loramux_server.base_model import ResolvedBase
from loramux_server.cli import job_tables
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.slow

Run = Callable[..., Awaitable[Result]]
LINE = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for all tests: those that count files and jobs count them before as well."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, training={"priority": "equal"}) as server:
        yield server


@pytest.fixture
def run(shared: TinyServer) -> Run:
    async def invoke(*arguments: str) -> Result:
        environment = {"LORAMUX_CLI_URL": shared.url, "COLUMNS": "200"}
        return await asyncio.to_thread(CliRunner().invoke, app, ["finetune", *arguments], env=environment)

    return invoke


async def files_and_jobs(shared: TinyServer) -> tuple[list[str], list[str]]:
    files, jobs = await shared.client.files.list(), await shared.client.fine_tuning.jobs.list()
    return [file.id for file in files.data], [job.id for job in jobs.data]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(LINE) + "\n" for _ in range(10)))
    return str(path)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_is_created_listed_shown_paused_resumed_and_cancelled(run: Run, data: str) -> None:
    made = await run("create", data, "--suffix", "tone", "--epochs", "2", "--json")
    assert made.exit_code == 0, made.output
    job = json.loads(made.stdout)
    assert job["loramux"]["model"].startswith("ft:tiny:local:tone:")
    assert job["hyperparameters"]["n_epochs"] == 2
    assert job["id"] in (await run("list")).stdout
    assert "paused" in (await run("pause", job["id"])).stdout
    assert (await run("resume", job["id"])).exit_code == 0
    assert "cancelled" in (await run("cancel", job["id"])).stdout
    assert "The job was cancelled" in (await run("events", job["id"])).stdout
    assert "tone" in (await run("show", job["id"])).stdout


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_s_adapter_can_get_another_name(run: Run, data: str) -> None:
    created = json.loads((await run("create", data, "--as", "support", "--json")).stdout)
    await run("cancel", created["id"])  # nothing of the test needs its trainer
    assert created["loramux"]["alias"] == "support"
    refused = await run("create", data, "--as", "../up")
    assert refused.exit_code == 1


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.engine  # as slow as the engine: the trainer imports torch
async def test_waiting_ends_with_the_job_and_reports_why_it_failed(run: Run, data: str) -> None:
    waited = await run("create", data, "--wait")
    assert waited.exit_code == 1, waited.output
    assert "failed" in waited.stdout, waited.output
    assert "can't be loaded as a base model" in waited.stdout


@pytest.mark.asyncio(loop_scope="module")
async def test_an_estimate_describes_a_job_and_leaves_no_files(run: Run, shared: TinyServer, data: str) -> None:
    before = await files_and_jobs(shared)
    estimate = await run("estimate", data, "--validation", data, "--epochs", "3")
    assert estimate.exit_code == 0, estimate.output
    assert "steps" in estimate.stdout
    assert "epochs 3" in " ".join(estimate.stdout.split())
    assert "validation prompts are also in the training file" in " ".join(estimate.stdout.split())
    assert await files_and_jobs(shared) == before
    assert [job["id"] for job in json.loads((await run("list", "--json")).stdout)["data"]] == before[1]
    assert json.loads((await run("estimate", data, "--json")).stdout)["recipe"]["rank"] == 8


@pytest.mark.asyncio(loop_scope="module")
async def test_an_estimate_with_an_invalid_validation_file_leaves_no_files(
    run: Run, shared: TinyServer, data: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    before = await files_and_jobs(shared)
    refused = await run("estimate", data, "--validation", str(broken))
    assert (refused.exit_code, "line 1: " in refused.output) == (1, True)
    assert await files_and_jobs(shared) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_an_invalid_file_is_refused_with_its_line(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a", "completion": "b"}\n')
    refused = await run("create", str(broken))
    assert refused.exit_code == 1
    assert "line 1: it is a pair of `prompt` and `completion`" in refused.output


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_job_is_reported_with_exit_code_1(run: Run) -> None:
    refused = await run("show", "ftjob-nothing")
    assert (refused.exit_code, "No fine-tuning job has this id" in refused.output) == (1, True)


def test_a_succeeded_job_is_shown_with_a_command_that_tries_it(capsys: pytest.CaptureFixture[str]) -> None:
    details = dict.fromkeys(("loss", "validation_loss", "tokens_per_second", "seconds_left", "trained_share"))
    job: dict[str, Any] = {
        "id": "ftjob-1",
        "status": "succeeded",
        "fine_tuned_model": "ft:a:b:c:d",
        "hyperparameters": {"n_epochs": 1},
        "result_files": [],
        "error": None,
        "loramux": details | {"model": "ft:a:b:c:d", "cost": {}, "evaluation": {"sentence": "Keep [prompting]."}},
    }
    job_tables.job(job, "http://127.0.0.1:8000")
    output = capsys.readouterr().out
    assert "Keep [prompting]." in output
    assert "curl -s http://127.0.0.1:8000/v1/chat/completions" in output
    assert '"model": "ft:a:b:c:d"' in output


PAIR = {
    "input": {"messages": [{"role": "user", "content": "hi"}]},
    "preferred_output": [{"role": "assistant", "content": "ho"}],
    "non_preferred_output": [{"role": "assistant", "content": "no"}],
}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_file_of_pairs_is_trained_by_dpo(run: Run, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(PAIR) + "\n" for _ in range(10)))
    planned = await run("estimate", str(pairs), "--beta", "0.4", "--epochs", "3", "--json")
    assert planned.exit_code == 0, planned.output
    recipe = json.loads(planned.stdout)["recipe"]
    assert (recipe["method"], recipe["beta"], recipe["epochs"]) == ("dpo", 0.4, 3)


@pytest.mark.asyncio(loop_scope="module")
async def test_beta_is_refused_for_conversations(run: Run, data: str) -> None:
    refused = await run("estimate", data, "--beta", "0.4")
    assert refused.exit_code == 2
    assert "--beta is an option of DPO, and train.jsonl has no preference pairs" in refused.output


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_goes_on_from_an_adapter_and_stops_early(run: Run, shared: TinyServer, data: str) -> None:
    version = await shared.add("tone")
    options = ("--model", "tone", "--validation", data, "--patience", "2", "--json")
    planned = await run("estimate", data, *options)
    assert planned.exit_code == 0, planned.output
    recipe = json.loads(planned.stdout)["recipe"]
    assert (recipe["rank"], recipe["early_stopping_patience"]) == (4, 2)
    assert version.startswith("tone@")
