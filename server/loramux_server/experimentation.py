"""Wiring of experiments on live traffic: their service, their requests in the engine, and the feedback of users."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from loramux_adapters.service import AdapterService
from loramux_server.adapter_storage import AdapterStorage
from loramux_server.api.experiments.feedback import feedback_router
from loramux_server.api.experiments.routes import experiments_router
from loramux_server.engine.admission import AwaitEngine
from loramux_server.engine.background_chat import BackgroundChat
from loramux_server.engine.experiment_chat import ChatEndpoint, with_experiments
from loramux_server.engine.judge import EngineJudge
from loramux_server.engine.shadow import ShadowRequests
from loramux_server.experiments.assignment import Assignment
from loramux_server.experiments.feedback import FeedbackService
from loramux_server.experiments.feedback_repository import FeedbackRepository
from loramux_server.experiments.http_judge import HttpJudge
from loramux_server.experiments.live import LiveExperiments
from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.experiments.recorder import ExperimentRecorder
from loramux_server.experiments.repository import ExperimentRepository
from loramux_server.experiments.service import ExperimentService
from loramux_server.request_context import Meter, RequestContext
from loramux_server.settings import Settings

_SECONDS_PER_DAY = 86_400


class ExperimentParts:
    """The parts of experiments that need no engine: what the usage recorder and the endpoints are built with."""

    def __init__(self, settings: Settings, storage: AdapterStorage, registry: CollectorRegistry) -> None:
        self.metrics = ExperimentMetrics(registry)
        self.live = LiveExperiments(storage.resolver, self.metrics.running)
        self.repository = ExperimentRepository(storage.database)
        self.recorder = ExperimentRecorder(self.repository, self.metrics)
        self.retention_seconds = settings.usage_record_days * _SECONDS_PER_DAY
        self.feedback_repository = FeedbackRepository(storage.database)
        self.feedback = FeedbackService(self.feedback_repository, self.metrics, self.retention_seconds)


@dataclass
class Experimentation:
    """The experiments of a server: `wrap_chat` goes around vLLM's chat endpoint, `running` around its serving."""

    parts: ExperimentParts
    service: ExperimentService
    chat: BackgroundChat
    shadows: ShadowRequests
    base_name: str

    def wrap_chat(self, endpoint: ChatEndpoint) -> ChatEndpoint:
        """Return the chat endpoint that answers requests of experiments by their variants."""
        return with_experiments(endpoint, self, self.base_name)

    def assign(self, model: str, context: RequestContext) -> Assignment | None:
        """Assign a request; see `LiveExperiments.assign`."""
        return self.parts.live.assign(model, context)

    def answered(self, assignment: Assignment, request: Any) -> None:
        """Ask the baseline as well, if the request was chosen for it."""
        if assignment.wants_shadow:
            self.shadows.add(assignment, request)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Resume the experiments, and work on them while the context is active."""
        async with self.service.running(), self.shadows.running():
            yield

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes of experiments and feedback to `app`, whose chat handler is mounted."""
        self.chat.handler = app.state.openai_serving_chat
        app.include_router(experiments_router(self.service, self.parts.feedback_repository))
        app.include_router(feedback_router(self.parts.feedback))


def build_experimentation(
    parts: ExperimentParts,
    settings: Settings,
    storage: AdapterStorage,
    adapter_service: AdapterService,
    engine: Any,
    meter: Meter,
    awake: AwaitEngine = nullcontext,
) -> Experimentation:
    """Wire the experiments; `meter` charges the requests that no client asked for, which run `awake()`."""
    chat = BackgroundChat(meter, awake)
    is_elsewhere = settings.judge_url is not None
    judge = HttpJudge(settings.judge_url, settings.judge_api_key) if settings.judge_url else EngineJudge(chat)
    service = ExperimentService(
        repository=parts.repository,
        adapters=adapter_service,
        live=parts.live,
        recorder=parts.recorder,
        ask_judge=judge,
        is_model=lambda name: is_elsewhere or storage.resolver.is_served(storage.resolver.own_name(name)),
        retention_seconds=parts.retention_seconds,
        is_metered=settings.metering,
    )
    adapter_service.check_alias_change = parts.live.check_alias_change
    shadows = ShadowRequests(engine, storage.base.name, chat, parts.recorder, parts.metrics)
    return Experimentation(parts, service, chat, shadows, storage.base.name)
