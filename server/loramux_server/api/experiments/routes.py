"""`/admin/experiments`: start, list, show and stop experiments; `/admin/feedback`: what users say, by route."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query

from loramux_adapters.models import parse_adapter_name
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.experiments.schemas import (
    ExperimentDetails,
    Experiments,
    FeedbackByRoute,
    RouteFeedback,
    StartExperiment,
)
from loramux_server.api.permissions import Admin
from loramux_server.experiments.feedback_repository import FeedbackRepository
from loramux_server.experiments.models import Experiment
from loramux_server.experiments.service import ExperimentService

DEFAULT_SECONDS = 86_400.0


def experiments_router(service: ExperimentService, feedback: FeedbackRepository) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/admin", tags=["experiments"], responses=error_responses())

    async def details(experiment: Experiment) -> ExperimentDetails:
        return ExperimentDetails.with_report(experiment, await service.report(experiment))

    @router.post("/experiments", status_code=201, responses=error_responses(404, 409))
    async def start_experiment(body: StartExperiment, by: Admin) -> ExperimentDetails:
        """Answer a random share of the users of an adapter by a baseline or a candidate, and compare the answers."""
        return await details(await service.start(body.proposal(), actor=by.key_id))

    @router.get("/experiments")
    async def list_experiments(
        _: Admin,
        adapter: Annotated[str | None, Query(max_length=256, description="Only those of this adapter.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Experiments:
        """List experiments with what they show, newest first."""
        name = None if adapter is None else service.adapters.resolver.own_name(parse_adapter_name(adapter))
        return Experiments(data=[await details(each) for each in await service.newest(name, limit)])

    @router.get("/experiments/{experiment_id}", responses=error_responses(404))
    async def show_experiment(experiment_id: str, _: Admin) -> ExperimentDetails:
        """Show an experiment: its verdict may be looked at any time."""
        return await details(await service.get(experiment_id))

    @router.delete("/experiments/{experiment_id}", responses=error_responses(404, 409))
    async def stop_experiment(experiment_id: str, by: Admin) -> ExperimentDetails:
        """Stop an experiment: all requests are answered as before it; its report stays."""
        return await details(await service.stop(experiment_id, actor=by.key_id))

    @router.get("/feedback")
    async def show_feedback(
        _: Admin,
        since: Annotated[float | None, Query(ge=0, description="Unix seconds; by default a day ago.")] = None,
    ) -> FeedbackByRoute:
        """Show how many requests of each route got feedback, and its mean."""
        start = time.time() - DEFAULT_SECONDS if since is None else since
        rows = await asyncio.to_thread(feedback.by_route, start)
        data = [
            RouteFeedback.model_validate(
                row._asdict() | {"adapter": row.adapter or None, "version": row.version or None}
            )
            for row in rows
        ]
        return FeedbackByRoute(since=start, data=data)

    return router
