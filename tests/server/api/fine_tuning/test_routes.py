"""Job requests over HTTP; the tests of the supervisor and of the real base run jobs."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    root = tmp_path_factory.mktemp("fine-tuning")
    async with tiny_server(root, tiny_base, training={"queue": 3}, engine={"max_lora_rank": 16}) as tiny:
        yield tiny


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def file(tiny: TinyServer) -> str:
    content = b"".join(json.dumps(LINE).encode() + b"\n" for _ in range(10))
    return (await tiny.client.files.create(file=("a.jsonl", content), purpose="fine-tune")).id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "gpt-4o-mini"}, "no base, adapter or alias is served as `gpt-4o-mini`; expected the base `tiny`"),
        ({"training_file": "file-nothing"}, "No file has the id given as training_file"),
        ({"validation_file": "file-nothing"}, "No file has the id given as validation_file"),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, "expected type `supervised` or `dpo`"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "beta: expected a number above 0"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "../up"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"x": "y" * 513}}, "metadata"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs: expected a whole number from 1 to 1,000, or"),
        ({"hyperparameters": {"n_epochs": "many"}}, r"n_epochs: expected .*; got \\?\"many"),
        ({"hyperparameters": {"n_epochs": True}}, "n_epochs: expected .*; got true"),
        ({"hyperparameters": {"batch_size": 1.5}}, "batch_size: expected a whole number from 1 to 4,096, .* got 1.5"),
        ({"hyperparameters": {"batch_size": ["x"] * 1000}}, r"batch_size: expected .*; got .{1,60}$"),
        ({"hyperparameters": {"learning_rate_multiplier": -1}}, "multiplier: expected a number above 0 and at most"),
        ({"hyperparameters": {"learning_rate_multiplier": 1000}}, r"multiplier: expected at most \d+ on this base"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e-323}}, "learning_rate_multiplier: .*must be above 0"),
        ({"extra_body": {"lora": {"target_modules": ["q_proj"] * 2}}}, "lora: target_modules names a module twice"),
        ({"extra_body": {"lora": {"rank": 999}}}, "lora.rank: expected a whole number from 1 to 256, or"),
        ({"extra_body": {"lora": {"target_modules": 5}}}, r"target_modules: expected a list of names .*; got 5$"),
        ({"extra_body": {"lora": {"target_modules": ["(a+)+"]}}}, "target_modules: expected a list of names"),
        ({"extra_body": {"lora": {"rank": 256}}}, "serves ranks up to"),
        ({"extra_body": {"lora": {"last_layers": 99}}}, "the base has only 3 layers"),
        ({"extra_body": {"unknown": 1}}, "unknown"),
    ],
)
async def test_an_invalid_job_is_a_400_with_its_reason(
    tiny: TinyServer, file: str, changes: dict[str, Any], reason: str
) -> None:
    wanted: dict[str, Any] = {"model": "tiny", "training_file": file} | changes
    with pytest.raises(openai.BadRequestError, match=reason) as refused:
        await tiny.client.fine_tuning.jobs.create(**wanted)
    assert "pydantic" not in str(refused.value)
    assert (await tiny.client.fine_tuning.jobs.list()).data == []


async def test_the_largest_multiplier_named_in_an_error_is_accepted(tiny: TinyServer, file: str) -> None:
    async def estimated(multiplier: float) -> Any:
        hyperparameters = {"learning_rate_multiplier": multiplier}
        body = {"model": "tiny", "training_file": file, "hyperparameters": hyperparameters}
        return (await tiny.http.post("/admin/fine_tuning/estimate", json=body)).json()

    refused = (await estimated(1000))["error"]
    assert refused["param"] == "learning_rate_multiplier"
    most = int(re.findall(r"at most (\d+)", refused["message"])[0])
    assert (await estimated(most))["recipe"]["learning_rate"] <= 1
    assert "error" in await estimated(most + 1)


@pytest.mark.parametrize("job", ["ftjob-nothing", "x' OR 1=1", "%00"])
async def test_unknown_jobs_are_not_found(tiny: TinyServer, job: str) -> None:
    for path in (job, f"{job}/events", f"{job}/checkpoints"):
        assert (await tiny.http.get(f"/v1/fine_tuning/jobs/{path}")).status_code == 404
    for verb in ("cancel", "pause", "resume"):
        answer = await tiny.http.post(f"/v1/fine_tuning/jobs/{job}/{verb}")
        code = None if job == "%00" else "job_not_found"  # a path with a control character is no route
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


async def test_a_job_waits_is_paused_resumed_and_cancelled(tiny: TinyServer, file: str) -> None:
    jobs = tiny.client.fine_tuning.jobs
    made = [await jobs.create(model="tiny", training_file=file, metadata={"n": str(n)}, seed=n) for n in range(3)]
    assert [job.organization_id for job in made] == ["local"] * 3
    paused: Any = await jobs.pause(made[2].id)
    assert paused.status == "paused"  # which the client's types don't know
    assert (await jobs.resume(made[2].id)).status in {"queued", "validating_files"}
    found = [job async for job in await jobs.list(limit=1)]
    assert [job.id for job in found] == [job.id for job in reversed(made)]
    assert [job.id async for job in await jobs.list(metadata={"n": "1"})] == [made[1].id]
    for job in made:
        with_errors = await jobs.retrieve(job.id)
        if not with_errors.finished_at:
            assert (await jobs.cancel(job.id)).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        await jobs.pause(made[0].id)


async def cancelled(tiny: TinyServer) -> float:
    sample = r'^loramux_fine_tuning_jobs_total{outcome="cancelled"} (.*)$'
    [count] = re.findall(sample, (await tiny.http.get("/metrics")).text, re.MULTILINE)
    return float(count)


async def test_a_creation_with_the_same_idempotency_key_returns_the_first_job(tiny: TinyServer, file: str) -> None:
    async def create(key: str) -> str:
        jobs, headers = tiny.client.fine_tuning.jobs, {"Idempotency-Key": key}
        return (await jobs.create(model="tiny", training_file=file, extra_headers=headers)).id

    ids = await asyncio.gather(*(create("import openai:ftjob-1 0") for _ in range(8)))
    assert len(set(ids)) == 1
    other = await create("import openai:ftjob-1 1")
    assert other not in ids
    for job in {*ids, other}:
        await tiny.client.fine_tuning.jobs.cancel(job)
    assert await create("import openai:ftjob-1 0") in ids
    for key in ("x" * 256, ""):
        with pytest.raises(openai.BadRequestError, match="expected 1 to 255 characters"):
            await create(key)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 2}, "seed"),
        ({"suffix": "other"}, "suffix"),
        ({"hyperparameters": {"n_epochs": 2}}, "hyperparameters"),
        ({"metadata": {"a": "b"}}, "metadata"),
    ],
)
async def test_an_idempotency_key_with_another_body_is_refused(
    tiny: TinyServer, file: str, changes: dict[str, Any], name: str
) -> None:
    """Otherwise the second job would never be trained, and nobody be told."""
    jobs, headers = tiny.client.fine_tuning.jobs, {"Idempotency-Key": name}
    body: dict[str, Any] = {"model": "tiny", "training_file": file, "extra_headers": headers}
    first = await jobs.create(**body, seed=1)
    assert (await jobs.create(**body, seed=1)).id == first.id
    assert (await jobs.create(**body)).id == first.id
    with pytest.raises(openai.ConflictError, match=f"with another {name}: choose a new key"):
        await jobs.create(**{**body, "seed": 1, **changes})
    if not (await jobs.retrieve(first.id)).finished_at:
        await jobs.cancel(first.id)


async def test_a_job_cancelled_while_queued_is_counted(tiny: TinyServer, file: str) -> None:
    jobs, before = tiny.client.fine_tuning.jobs, await cancelled(tiny)
    made = await jobs.create(model="tiny", training_file=file)
    await jobs.pause(made.id)  # nobody works on it
    await jobs.cancel(made.id)
    assert await cancelled(tiny) == before + 1
