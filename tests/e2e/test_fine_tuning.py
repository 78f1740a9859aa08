"""Fine-tuning with the official client on the real base: upload, train, follow, request, delete.

Jobs are waited for without a limit: on a busy machine they take many times as long. The limit of the test ends a hang.
"""

import asyncio
import base64
import json
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import EXAMPLES, RealServer

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES_TRAINED = 96


async def uploaded(real: RealServer, first: int, count: int) -> str:
    lines = (EXAMPLES / "order-json" / "train.jsonl").read_bytes().splitlines(keepends=True)
    content = b"".join(lines[first : first + count])
    file = await real.client.files.create(file=("orders.jsonl", content), purpose="fine-tune")
    assert file.status == "processed"
    return file.id


async def uploaded_in_parts(real: RealServer, count: int) -> str:
    lines = (EXAMPLES / "order-json" / "train.jsonl").read_bytes().splitlines(keepends=True)
    content = b"".join(lines[:count])
    upload = await real.client.uploads.upload_file_chunked(
        file=content, filename="orders", bytes=len(content), mime_type="text/jsonl", purpose="fine-tune", part_size=4096
    )
    assert upload.file
    return upload.file.id


async def ended(real: RealServer, job: str) -> Any:
    """Return the job once it has finished."""
    while True:
        found = await real.client.fine_tuning.jobs.retrieve(job)
        if found.finished_at:
            return found
        await asyncio.sleep(0.5)


async def ask(real: RealServer, model: str) -> Any:
    messages: Any = [{"role": "user", "content": "Two tea kettles, please, by Friday."}]
    return await real.client.chat.completions.create(model=model, messages=messages, max_tokens=16, temperature=0)


async def test_an_adapter_is_trained_and_used_with_the_official_client_only(real: RealServer) -> None:
    training = await uploaded_in_parts(real, EXAMPLES_TRAINED)
    validation = await uploaded(real, EXAMPLES_TRAINED, 12)
    job = await real.client.fine_tuning.jobs.create(
        model=real.base.name,
        training_file=training,
        validation_file=validation,
        suffix="orders",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        metadata={"team": "sales"},
        extra_body={"alias": "orders-for-sales"},
    )
    assert (job.status, job.fine_tuned_model, job.seed) == ("validating_files", None, 7)
    while_it_trains = await ask(real, real.base.name)
    assert while_it_trains.choices[0].message.content
    job = await ended(real, job.id)
    assert (job.status, job.error) == ("succeeded", None)
    assert job.trained_tokens
    name = job.fine_tuned_model or ""
    assert name.startswith(f"ft:{real.base.name}:local:orders:")

    events = [event async for event in await real.client.fine_tuning.jobs.list_events(job.id, limit=100)]
    measured: list[Any] = [event.data for event in reversed(events)]
    losses = [data["train_loss"] for data in measured if "train_loss" in data]
    assert len(losses) == EXAMPLES_TRAINED // 2
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert any("% of the base's" in event.message for event in events)

    checkpoints = [one async for one in await real.client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert [one.step_number for one in checkpoints] == [48, 32, 16]
    assert (checkpoints[0].metrics.full_valid_loss or 9) < (checkpoints[-1].metrics.full_valid_loss or 0)

    base, tuned = await ask(real, real.base.name), await ask(real, name)
    assert tuned.model == checkpoints[0].fine_tuned_model_checkpoint
    assert tuned.choices[0].message.content != base.choices[0].message.content
    renamed = await ask(real, "orders-for-sales")
    assert renamed.choices[0].message.content == tuned.choices[0].message.content
    early = await ask(real, checkpoints[-1].fine_tuned_model_checkpoint)
    assert early.model == checkpoints[-1].fine_tuned_model_checkpoint

    evaluation: Any = (job.model_extra or {})["loramux"]["evaluation"]
    assert evaluation["questions"] == 12
    assert (
        evaluation["arms"]["adapter"]["scores"]["valid JSON"]["mean"]
        > evaluation["arms"]["base"]["scores"]["valid JSON"]["mean"]
    )
    assert any(event.message == evaluation["sentence"] for event in events)

    table, picture, comparison = [(await real.client.files.content(file)).content for file in job.result_files]
    assert table.startswith(b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy")
    assert len(table.splitlines()) == 1 + len(losses)
    encoded = await real.client.files.content(job.result_files[0], extra_query={"encoding": "base64"})
    assert base64.b64decode(encoded.text) == table
    assert picture.startswith(b"\x89PNG")
    assert len(json.loads(comparison)["answers"]) == 12 * len(evaluation["arms"])
    assert evaluation["measure"] == "field accuracy"
    assert sum(candidate["is_chosen"] for candidate in evaluation["candidates"]) == 1
    sample = evaluation["arms"]["adapter"]["sample"]
    assert sample["messages"][-1]["role"] == "user"
    assert json.loads(sample["expected"])

    assert (await real.http.delete("/admin/aliases/orders-for-sales")).status_code == 200
    assert (await real.client.models.delete(name)).deleted
    with pytest.raises(openai.NotFoundError):
        await ask(real, name)


async def test_a_cancelled_job_stops_its_trainer_and_its_file_can_go(real: RealServer) -> None:
    file = await uploaded(real, 0, 40)
    jobs = real.client.fine_tuning.jobs
    endless: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1000}}}
    job = await jobs.create(model=real.base.name, training_file=file, method=endless)
    with pytest.raises(openai.ConflictError, match="An unfinished job needs the file"):
        await real.client.files.delete(file)
    while not (await first_steps(real, job.id)):  # noqa: ASYNC110 - as a client would
        await asyncio.sleep(0.2)
    folder = str(real.folder / "data" / "fine-tuning" / job.id)
    assert _runs(folder)
    assert (await jobs.cancel(job.id)).status == "cancelled"
    while _runs(folder):  # noqa: ASYNC110 - processes have no event
        await asyncio.sleep(0.1)
    assert (await real.client.files.delete(file)).deleted
    with pytest.raises(openai.ConflictError, match="cancelled and can't become"):
        await jobs.resume(job.id)


async def first_steps(real: RealServer, job: str) -> int:
    """Return how many steps of a job that must be unfinished are trained."""
    found: Any = await real.client.fine_tuning.jobs.retrieve(job)
    assert found.finished_at is None, found
    return int(found.model_extra["loramux"]["step"])


def _runs(folder: str) -> bool:
    """Whether a trainer has this folder in its command line."""
    import psutil

    processes = psutil.process_iter(["cmdline"])  # leaves out those that exit meanwhile
    return any(folder in " ".join(process.info["cmdline"] or ()) for process in processes)


async def test_what_a_job_would_be_is_told_before_it_is_one(real: RealServer) -> None:
    file = await uploaded(real, 0, 40)
    answer: httpx.Response = await real.http.post(
        "/admin/fine_tuning/estimate", json={"model": real.base.name, "training_file": file}
    )
    plan = answer.json()
    assert plan["report"]["examples"] == 40
    assert plan["estimate"]["tokens"] == plan["report"]["tokens"] * plan["recipe"]["epochs"]
    assert plan["estimate"]["seconds"] > 0
    assert plan["cost"]["gpu_hour"] > 0


def preferences(first: int, count: int) -> bytes:
    """Pairs whose preferred answers are those of the training file, and others in plain words."""
    lines = (EXAMPLES / "order-json" / "train.jsonl").read_text().splitlines()[first : first + count]
    pairs = [
        {
            "input": {"messages": messages[:-1]},
            "preferred_output": messages[-1:],
            "non_preferred_output": [{"role": "assistant", "content": "Thank you for your order."}],
        }
        for messages in (json.loads(line)["messages"] for line in lines)
    ]
    return "".join(json.dumps(pair) + "\n" for pair in pairs).encode()


async def test_a_job_by_dpo_goes_on_from_an_adapter(real: RealServer) -> None:
    jobs = real.client.fine_tuning.jobs
    training, once = await uploaded(real, 0, 16), {"hyperparameters": {"n_epochs": 1}}
    supervised: Any = {"type": "supervised", "supervised": once}
    first = await jobs.create(model=real.base.name, training_file=training, method=supervised, seed=7)
    name = (await ended(real, first.id)).fine_tuned_model
    file, held_out = [
        await real.client.files.create(file=("pairs.jsonl", preferences(first, 12)), purpose="fine-tune")
        for first in (0, 12)
    ]
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.2}}}
    job = await jobs.create(model=name, training_file=file.id, validation_file=held_out.id, method=method, seed=7)
    assert (job.model.split("@")[0], job.method.type if job.method else None) == (name, "dpo")
    job = await ended(real, job.id)
    assert (job.status, job.error) == ("succeeded", None)
    details: Any = job.model_extra["loramux"]
    found = details["preference"]
    assert found["reference"] == details["from_version"] == job.model
    assert found["pairs"] == 12
    assert found["accuracy"]["mean"] > 0.5
    assert [sample["reference"] != "" for sample in found["samples"]] == [True] * 5
    answer = await ask(real, job.fine_tuned_model or "")
    assert answer.model.startswith(job.fine_tuned_model)
