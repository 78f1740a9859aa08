"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning API."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request

from loramux_adapters.finetuning.jobs.errors import IdempotencyKeyReused
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord, NewJob
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import AdapterName
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.fine_tuning.files import list_page
from loramux_server.api.fine_tuning.requests import CreateJob, model_name
from loramux_server.api.fine_tuning.schemas import JobSerializer
from loramux_server.api.permissions import Admin, Caller, visible_project
from loramux_server.auth import Principal
from loramux_server.errors import InvalidRequest
from loramux_server.model_access import ModelAccess, is_own_alias

OnCancelled = Callable[[JobRecord], None]
CheckAlias = Callable[[AdapterName], None]
Missing = Callable[[], str | None]
SerializeJob = Callable[[JobRecord], Awaitable[dict[str, Any]]]
Limit = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str | None, Header()]
"""A name that the client gives a request, so that it can send it again without doing it twice."""
_MAX_IDEMPOTENCY_KEY = 255
_PREFIX = "/v1/fine_tuning/jobs"
_METADATA = "metadata["


def fine_tuning_router(
    registry: JobRegistry,
    planner: JobPlanner,
    serializer: JobSerializer,
    on_change: Callable[[], None],
    max_queued: int,
    on_cancelled: OnCancelled,
    check_alias: CheckAlias,
    missing_for_wandb: Missing,
    access: ModelAccess,
) -> APIRouter:
    """Return the routes.

    `on_change` is called after a job was created or its state changed, `on_cancelled` with each cancelled job, running
    or not. `check_alias` raises an AdapterError if an alias can't have a name, and
    `missing_for_wandb` returns why metrics can't be sent to Weights & Biases, None if they can. `access` says which
    models a caller can start from.
    """

    async def serialize(record: JobRecord) -> dict[str, Any]:
        """Serialize a job with its forecast, for which the jobs before it are read."""
        has_stopped = record.state.has_ended or record.state is JobState.PAUSED
        forecasts = {} if has_stopped else await asyncio.to_thread(planner.forecasts, time.time())
        [found] = await asyncio.to_thread(serializer.jobs, [record], forecasts)
        return found

    router = APIRouter(tags=["fine-tuning"], responses=error_responses(404, 409, 429))
    for part in (
        _jobs(registry, planner, serializer, serialize, on_change, max_queued, check_alias, missing_for_wandb, access),
        _state_changes(registry, serialize, on_change, on_cancelled),
        _logs(registry, serializer),
        _estimates(planner),
    ):
        router.include_router(part)
    return router


def _jobs(
    registry: JobRegistry,
    planner: JobPlanner,
    serializer: JobSerializer,
    serialize: SerializeJob,
    on_change: Callable[[], None],
    max_queued: int,
    check_alias: CheckAlias,
    missing_for_wandb: Missing,
    access: ModelAccess,
) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)

    @router.post("")
    async def create(request_body: CreateJob, by: Caller, idempotency_key: IdempotencyKey = None) -> dict[str, Any]:
        """Create a job that trains an adapter; it starts when the jobs before it have finished.

        A request with the `Idempotency-Key` and body of an earlier one creates no job: it returns that of the first.
        """
        key = _hash_key(by.key_id, idempotency_key)
        if found := await asyncio.to_thread(registry.find, key):
            _check_same(found, request_body)
            return await serialize(found)
        is_visible = access.may_use(by, request_body.model)
        from_version = planner.find_start(request_body.model, is_visible=is_visible)
        seed = request_body.seed_or_random()
        await asyncio.to_thread(
            planner.plan,
            request_body.training_file,
            request_body.validation_file,
            request_body.requested_hyperparameters,
            seed,
            from_version,
            visible_project(by),
        )
        new = NewJob(
            base=planner.base.name,
            from_version=from_version,
            name=model_name(planner.base.name, serializer.organization, request_body.suffix),
            training_file=request_body.training_file,
            validation_file=request_body.validation_file,
            suffix=request_body.suffix,
            seed=seed,
            wanted=request_body.requested_hyperparameters.model_dump(mode="json"),
            metadata=request_body.metadata,
            created_by=by.key_id,
            integrations=request_body.integration_documents,
            alias=request_body.checked_alias(_own_alias_check(check_alias, by)),
            idempotency_key=key,
            project=by.project,
        )
        notes = _integration_notes(request_body, missing_for_wandb)
        record = await asyncio.to_thread(registry.create, new, time.time(), max_queued, *notes)
        _check_same(record, request_body)  # another request with its key may have been quicker
        on_change()
        return await serialize(record)

    @router.get("")
    async def list_jobs(request: Request, by: Caller, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        """List jobs, newest first; `metadata[KEY]=VALUE` selects some, `metadata=null` those without."""
        metadata = {
            key.removeprefix(_METADATA).removesuffix("]"): value
            for key, value in request.query_params.items()
            if key.startswith(_METADATA)
        }
        if any('"' in key or "\\" in key for key in metadata):
            raise InvalidRequest("A metadata key can't contain quotes or backslashes.", param="metadata")
        untagged = request.query_params.get("metadata") == "null"
        page = await asyncio.to_thread(
            registry.list, after, limit, metadata, untagged=untagged, project=visible_project(by)
        )
        forecasts = await asyncio.to_thread(planner.forecasts, time.time())
        found = await asyncio.to_thread(serializer.jobs, page.items, forecasts)
        return list_page(found, has_more=page.has_more)

    @router.get("/{job}")
    async def retrieve(job: str, by: Caller) -> dict[str, Any]:
        """Return one job."""
        return await serialize(await asyncio.to_thread(registry.get, job, visible_project(by)))

    return router


def _integration_notes(request_body: CreateJob, missing: Missing) -> list[JobEvent]:
    """Return a warning if the metrics of the job can't be sent where it asks for."""
    reason = missing() if request_body.integrations else None
    return [JobEvent(f"No metrics are sent to Weights & Biases: {reason}", "warn")] if reason else []


def _state_changes(
    registry: JobRegistry, serialize: SerializeJob, on_change: Callable[[], None], on_cancelled: OnCancelled
) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)

    async def change_state(job: str, by: Principal, state: JobState, message: str) -> dict[str, Any]:
        record: JobRecord = await asyncio.to_thread(
            registry.move, job, state, time.time(), JobEvent(message), project=visible_project(by)
        )
        if state is JobState.CANCELLED:
            on_cancelled(record)
        on_change()
        return await serialize(record)

    @router.post("/{job}/cancel")
    async def cancel(job: str, by: Caller) -> dict[str, Any]:
        """Cancel a job for good; its checkpoints stay."""
        return await change_state(job, by, JobState.CANCELLED, "The job was cancelled")

    @router.post("/{job}/pause")
    async def pause(job: str, by: Caller) -> dict[str, Any]:
        """Pause a job after its current step; other jobs may run first."""
        return await change_state(job, by, JobState.PAUSED, "The job was paused")

    @router.post("/{job}/resume")
    async def resume(job: str, by: Caller) -> dict[str, Any]:
        """Resume a paused job where it stopped."""
        record: JobRecord = await asyncio.to_thread(registry.get, job, visible_project(by))
        state = JobState.QUEUED if record.recipe else JobState.VALIDATING_FILES
        return await change_state(job, by, state, "The job is queued to continue")

    return router


def _logs(registry: JobRegistry, serializer: JobSerializer) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)

    @router.get("/{job}/events")
    async def events(job: str, by: Caller, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        """List the job's events, newest first."""
        page = await asyncio.to_thread(registry.events, job, after, limit, visible_project(by))
        return list_page([serializer.event(event) for event in page.items], has_more=page.has_more)

    @router.get("/{job}/checkpoints")
    async def checkpoints(job: str, by: Caller, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
        """List the job's checkpoints, newest first; requests can use each as `model`."""
        page = await asyncio.to_thread(registry.checkpoints, job, after, limit, visible_project(by))
        return list_page([serializer.checkpoint(checkpoint) for checkpoint in page.items], has_more=page.has_more)

    return router


def _estimates(planner: JobPlanner) -> APIRouter:
    router = APIRouter()

    @router.post("/admin/fine_tuning/estimate")
    async def estimate(request_body: CreateJob, _: Admin) -> dict[str, Any]:
        """Check the files, choose the open hyperparameters, and estimate time and cost."""
        from_version = planner.find_start(request_body.model)
        files = request_body.training_file, request_body.validation_file
        requested = request_body.requested_hyperparameters
        plan = await asyncio.to_thread(planner.plan, *files, requested, request_body.seed or 0, from_version)
        return plan.model_dump(mode="json")

    return router


def _own_alias_check(check: CheckAlias, by: Principal) -> CheckAlias:
    """Return `check`, after the check that the caller may have an alias."""

    def check_own(alias: AdapterName) -> None:
        if not is_own_alias(by, alias):
            raise InvalidRequest(f"alias: expected a name that begins with `{by.project}/`.", param="alias")
        check(alias)

    return check_own


def _hash_key(key_id: str, idempotency_key: str | None) -> str | None:
    """Return what is stored of a client's idempotency key: keys of different API keys never meet.

    Raises:
        InvalidRequest: the key is empty or too long.
    """
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= _MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"Idempotency-Key: expected 1 to {_MAX_IDEMPOTENCY_KEY} characters.")
    return None if idempotency_key is None else hashlib.sha256(f"{key_id}\n{idempotency_key}".encode()).hexdigest()


def _check_same(job: JobRecord, body: CreateJob) -> None:
    """Check that a job is what a request asks for.

    Raises:
        IdempotencyKeyReused: it is not: the key of the request was used for another one.
    """
    asked = {
        "training_file": body.training_file,
        "validation_file": body.validation_file,
        "suffix": body.suffix,
        "seed": job.seed if body.seed is None else body.seed,
        "wanted": body.requested_hyperparameters.model_dump(mode="json"),
        "metadata": body.metadata,
        "integrations": body.integration_documents,
        "alias": body.alias,
    }
    if different := [name for name, value in asked.items() if getattr(job, name) != value]:
        name = "hyperparameters" if different[0] == "wanted" else different[0]
        raise IdempotencyKeyReused(f"This Idempotency-Key was used for a job with another {name}: choose a new key.")
