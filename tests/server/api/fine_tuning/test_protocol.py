"""All of OpenAI's fine-tuning API with the official client: what it can do here, and the reason for what it can't."""

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.webhooks import FineTuningJobCancelledWebhookEvent

from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_server.base_model import ResolvedBase
from loramux_server.database import create_engine
from tests.helpers.tiny_server import TinyServer, tiny_server
from tests.helpers.webhook_receiver import SECRET, Receiver, receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
CONTENT = b"".join(json.dumps(LINE).encode() + b"\n" for _ in range(10))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(
    tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> AsyncIterator[TinyServer]:
    webhooks = [{"url": receiver.url, "secret": SECRET}]
    async with tiny_server(tmp_path_factory.mktemp("protocol"), tiny_base, webhooks=webhooks) as tiny:
        yield tiny


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def file(tiny: TinyServer) -> FileObject:
    return await tiny.client.files.create(file=io.BytesIO(CONTENT), purpose="fine-tune")


def unknown_fields(model: openai.BaseModel) -> set[str]:
    """Return the fields that the client's model does not have."""
    return set(model.model_extra or {})


@pytest.mark.parametrize("name", ["train.json", "train", "data.txt", "日本.JSONL", None])
async def test_a_training_file_may_have_any_name(tiny: TinyServer, name: str | None) -> None:
    given: Any = io.BytesIO(CONTENT) if name is None else (name, CONTENT)
    file = await tiny.client.files.create(file=given, purpose="fine-tune")
    assert file.filename == (name or "upload")
    assert unknown_fields(file) == set()
    assert (await tiny.client.files.content(file.id)).content == CONTENT
    assert (await tiny.client.files.delete(file.id)).deleted


async def test_a_file_expires_when_it_says_so(tiny: TinyServer, file: FileObject) -> None:
    assert file.expires_at is None
    mortal = await tiny.client.files.create(
        file=("a", CONTENT), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 2_592_000}
    )
    assert mortal.expires_at == mortal.created_at + 2_592_000
    assert await tiny.client.files.retrieve(mortal.id) == mortal


@pytest.mark.parametrize(
    "expires_after",
    [
        {"anchor": "created_at", "seconds": 3599},
        {"anchor": "created_at", "seconds": 2_592_001},
        {"anchor": "last_active_at", "seconds": 3600},
        {"anchor": "created_at"},
        {"seconds": 3600},
        {"anchor": "created_at", "seconds": "soon"},
    ],
)
async def test_another_expiry_is_refused(tiny: TinyServer, expires_after: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="3600 to 2592000 seconds") as refused:
        await tiny.client.files.create(file=("a", CONTENT), purpose="fine-tune", expires_after=expires_after)
    assert refused.value.param == "expires_after"


@pytest.mark.parametrize("purpose", ["assistants", "batch", "vision", "user_data", "evals", "x" * 100, ""])
async def test_another_purpose_is_refused_with_the_one_that_is_expected(tiny: TinyServer, purpose: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="expected `fine-tune`") as refused:
        await tiny.client.files.create(file=("a", CONTENT), purpose=purpose)
    assert refused.value.param == "purpose"


async def test_a_result_file_comes_in_base64_where_a_script_for_openai_decodes_it(tiny: TinyServer) -> None:
    database = create_engine(str(tiny.settings.database_url))
    files = TrainingFiles(database, tiny.settings.data_dir / "files")
    result = files.add(io.BytesIO(b"step,train_loss\n1,0.5\n"), "step_metrics.csv", "fine-tune-results", 1.0).id
    database.dispose()
    assert (await tiny.client.files.content(result)).content.startswith(b"step,")
    encoded = await tiny.client.files.content(result, extra_query={"encoding": "base64"})
    assert base64.b64decode(encoded.text).startswith(b"step,train_loss\n1,")
    assert (await tiny.http.get(f"/v1/files/{result}/content?encoding=rot13")).status_code == 400


async def test_a_job_with_nulls_everywhere_is_one_without_them(tiny: TinyServer, file: FileObject) -> None:
    none: Any = {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None}
    job = await tiny.client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, validation_file=None, suffix=None, seed=None, metadata=None,
        integrations=None, hyperparameters=none,
        method={"type": "supervised", "supervised": {"hyperparameters": none}},
        extra_body={"lora": None, "alias": None},
    )  # fmt: skip
    assert job.integrations == []
    assert job.method is not None
    await tiny.client.fine_tuning.jobs.cancel(job.id)


async def test_a_job_s_objects_are_those_of_the_client_and_its_end_is_a_signed_message(
    tiny: TinyServer, file: FileObject, receiver: Receiver
) -> None:
    jobs = tiny.client.fine_tuning.jobs
    job = await jobs.create(model="tiny", training_file=file.id, extra_body={"alias": "support"})
    assert unknown_fields(job) == {"suffix", "progress", "loramux"}
    events = await jobs.list_events(job.id)
    assert [event.message for event in events.data][-2:] == [
        f"Validating training file: {file.id}",
        f"Created fine-tuning job: {job.id}",
    ]
    assert all(isinstance(event, FineTuningJobEvent) and not unknown_fields(event) for event in events.data)
    assert (await jobs.checkpoints.list(job.id)).data == []
    assert (await jobs.pause(job.id)).id == (await jobs.resume(job.id)).id == job.id
    assert isinstance(await jobs.cancel(job.id), FineTuningJob)
    assert isinstance(await receiver.event_of(job.id), FineTuningJobCancelledWebhookEvent)


async def test_jobs_are_found_by_their_metadata_and_by_having_none(tiny: TinyServer, file: FileObject) -> None:
    jobs = tiny.client.fine_tuning.jobs
    tagged = await jobs.create(model="tiny", training_file=file.id, metadata={"team": "sales"})
    plain = await jobs.create(model="tiny", training_file=file.id)
    with_none = {job.id async for job in await jobs.list(extra_query={"metadata": "null"})}
    assert plain.id in with_none
    assert tagged.id not in with_none
    assert [job.id async for job in await jobs.list(metadata={"team": "sales"})] == [tagged.id]
    for job in (tagged, plain):
        await jobs.cancel(job.id)


async def test_without_the_package_wandb_a_job_goes_on_with_a_warning(tiny: TinyServer, file: FileObject) -> None:
    integration: Any = {"type": "wandb", "wandb": {"project": "tone", "entity": None, "tags": ["a"]}}
    job = await tiny.client.fine_tuning.jobs.create(model="tiny", training_file=file.id, integrations=[integration])
    assert job.integrations is not None
    assert (job.integrations[0].wandb.project, job.integrations[0].wandb.tags) == ("tone", ["a"])
    events = (await tiny.client.fine_tuning.jobs.list_events(job.id)).data
    [warning] = [event for event in events if event.level == "warn" and "Weights" in event.message]
    assert "pip install wandb" in warning.message
    await tiny.client.fine_tuning.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"integrations": [{"type": "mlflow", "mlflow": {}}]}, "integrations.0.type"),
        ({"integrations": [{"type": "wandb"}]}, "integrations.0.wandb"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": ""}}]}, "integrations.0.wandb.project"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "a", "key": "b"}}]}, "integrations.0.wandb.key"),
        ({"extra_body": {"alias": "../up"}}, None),
        ({"extra_body": {"alias": "tiny"}}, None),
    ],
)
async def test_other_integrations_and_aliases_are_refused(
    tiny: TinyServer, file: FileObject, changes: dict[str, Any], param: str | None
) -> None:
    with pytest.raises((openai.BadRequestError, openai.ConflictError)) as refused:
        await tiny.client.fine_tuning.jobs.create(model="tiny", training_file=file.id, **changes)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "fine_tuning/alpha/graders/run", "Graders"),
        ("POST", "fine_tuning/alpha/graders/validate", "Graders"),
        ("POST", "fine_tuning/checkpoints/ft:tiny:local::1@0123456789ab/permissions", "Permissions of checkpoints"),
        ("GET", "fine_tuning/checkpoints/ft:tiny:local::1/permissions?limit=1", "Permissions of checkpoints"),
        ("DELETE", "fine_tuning/checkpoints/a%2Fb/permissions/cp_1", "Permissions of checkpoints"),
        ("GET", "webhook_endpoints", "the server's operator sets them as `webhooks`"),
        ("POST", "webhook_endpoints/whe_1/rotate_secret", "the server's operator sets them as `webhooks`"),
    ],
)
async def test_what_stays_out_is_a_400_with_its_reason(tiny: TinyServer, method: str, path: str, reason: str) -> None:
    answer = await tiny.http.request(method, f"/v1/{path}", json={} if method == "POST" else None)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "unsupported")
    assert reason in error["message"]
