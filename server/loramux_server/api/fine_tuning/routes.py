"""`/v1/fine_tuning/jobs`, as OpenAI's clients call it."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from loramux_adapters.finetuning.jobs.models import JobRecord, NewJob, Note
from loramux_adapters.finetuning.jobs.planning import Plans, Wanted
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_server.api.error_schemas import problems
from loramux_server.api.fine_tuning.files import listed
from loramux_server.api.fine_tuning.requests import CreateJob, model_name
from loramux_server.api.fine_tuning.schemas import JobViews
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest

Told = Callable[[JobRecord], None]
Limit = Annotated[int, Query(ge=1, le=1000)]
_PREFIX = "/v1/fine_tuning/jobs"
_METADATA = "metadata["


def fine_tuning_router(
    registry: JobRegistry,
    plans: Plans,
    views: JobViews,
    wake: Callable[[], None],
    most_waiting: int,
    cancelled: Told,
) -> APIRouter:
    """Return the routes; `wake` is called when there is something new to work on or to stop.

    `cancelled` is told of each job that is cancelled, also of one that nobody works on.
    """
    router = APIRouter(tags=["fine-tuning"], responses=problems(404, 409, 429))
    for part in (
        _jobs(registry, plans, views, wake, most_waiting),
        _moves(registry, views, wake, cancelled),
        _histories(registry, views),
        _estimates(plans),
    ):
        router.include_router(part)
    return router


def _jobs(
    registry: JobRegistry, plans: Plans, views: JobViews, wake: Callable[[], None], most_waiting: int
) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)

    @router.post("")
    async def create(given: CreateJob, by: Admin) -> dict[str, Any]:
        """Let an adapter be trained; the job begins when those before it have ended."""
        seed = given.chosen_seed()
        await asyncio.to_thread(plans.plan, given.training_file, given.validation_file, given.wanted, seed)
        new = NewJob(
            base=given.checked_model(plans.base.name),
            name=model_name(plans.base.name, views.organization, given.suffix),
            training_file=given.training_file,
            validation_file=given.validation_file,
            suffix=given.suffix,
            seed=seed,
            wanted=given.wanted.model_dump(mode="json"),
            metadata=given.metadata,
            created_by=by.key_id,
        )
        record = await asyncio.to_thread(registry.create, new, time.time(), most_waiting)
        wake()
        return views.job(record)

    @router.get("")
    async def list_jobs(request: Request, _: Admin, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        """List the jobs, the newest first."""
        wanted = {
            key.removeprefix(_METADATA).removesuffix("]"): value
            for key, value in request.query_params.items()
            if key.startswith(_METADATA)
        }
        if any('"' in key or "\\" in key for key in wanted):
            raise InvalidRequest("A key of metadata that is asked for can't hold quotes.", param="metadata")
        page = await asyncio.to_thread(registry.list, after, limit, wanted)
        return listed([views.job(record) for record in page.items], has_more=page.has_more)

    @router.get("/{job}")
    async def retrieve(job: str, _: Admin) -> dict[str, Any]:
        """Show one."""
        return views.job(await asyncio.to_thread(registry.get, job))

    return router


def _moves(registry: JobRegistry, views: JobViews, wake: Callable[[], None], cancelled: Told) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)

    async def moved(job: str, state: JobState, note: str) -> dict[str, Any]:
        record: JobRecord = await asyncio.to_thread(registry.move, job, state, time.time(), Note(note))
        if state is JobState.CANCELLED:
            cancelled(record)
        wake()
        return views.job(record)

    @router.post("/{job}/cancel")
    async def cancel(job: str, _: Admin) -> dict[str, Any]:
        """End it for good; its checkpoints stay."""
        return await moved(job, JobState.CANCELLED, "The job was cancelled")

    @router.post("/{job}/pause")
    async def pause(job: str, _: Admin) -> dict[str, Any]:
        """Stop it after the step it is at; others may go first."""
        return await moved(job, JobState.PAUSED, "The job was paused")

    @router.post("/{job}/resume")
    async def resume(job: str, _: Admin) -> dict[str, Any]:
        """Let it go on where it was paused."""
        record: JobRecord = await asyncio.to_thread(registry.get, job)
        state = JobState.QUEUED if record.recipe else JobState.VALIDATING_FILES
        return await moved(job, state, "The job waits to go on")

    return router


def _histories(registry: JobRegistry, views: JobViews) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)

    @router.get("/{job}/events")
    async def events(job: str, _: Admin, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        """List what happened, the newest first."""
        page = await asyncio.to_thread(registry.events, job, after, limit)
        return listed([views.event(event) for event in page.items], has_more=page.has_more)

    @router.get("/{job}/checkpoints")
    async def checkpoints(job: str, _: Admin, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
        """List the versions that were made on the way, the newest first; each can be asked for by its name."""
        page = await asyncio.to_thread(registry.checkpoints, job, after, limit)
        return listed([views.checkpoint(checkpoint) for checkpoint in page.items], has_more=page.has_more)

    return router


def _estimates(plans: Plans) -> APIRouter:
    router = APIRouter()

    @router.post("/admin/fine_tuning/estimate")
    async def estimate(given: CreateJob, _: Admin) -> dict[str, Any]:
        """Look at the files, choose what was left open, and guess time and cost."""
        given.checked_model(plans.base.name)
        wanted: Wanted = given.wanted
        plan = await asyncio.to_thread(plans.plan, given.training_file, given.validation_file, wanted, given.seed or 0)
        return plan.model_dump(mode="json")

    return router
