"""The composition root: builds everything, wires it, runs it. It reads like the picture in docs/structures.md."""

import asyncio
import socket
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.types import ASGIApp

from loramux_adapters.errors import AdapterError
from loramux_adapters.evaluation.evaluator import Ask, Examiner
from loramux_adapters.finetuning.datasets.report import inspect
from loramux_adapters.finetuning.jobs.planning import Plans
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_publisher import Delivery
from loramux_adapters.finetuning.jobs.supervisor import Supervisor
from loramux_adapters.finetuning.jobs.training_files import MOST_BYTES, TrainingFiles
from loramux_adapters.intake.ingest import Intake, declared_rank
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.store import Store
from loramux_adapters.intake.validation import largest_file
from loramux_adapters.models import BaseSpec, parse_adapter_name
from loramux_adapters.registry.registry import Registry
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import Catalogue
from loramux_adapters.service import Library
from loramux_server import database as db
from loramux_server.api.adapters.aliases import aliases_router
from loramux_server.api.adapters.audit import oversight_router
from loramux_server.api.adapters.create import additions_router
from loramux_server.api.adapters.routes import adapters_router
from loramux_server.api.fine_tuning.files import files_router
from loramux_server.api.fine_tuning.routes import fine_tuning_router
from loramux_server.api.fine_tuning.schemas import JobViews
from loramux_server.api.health import ops_router
from loramux_server.api.models import ServedModels, models_router
from loramux_server.api.usage.report import Sources
from loramux_server.api.usage.routes import usage_router
from loramux_server.auth import Authenticator
from loramux_server.base_model import ResolvedBase
from loramux_server.dashboard import dashboard_router
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.arguments import engine_arguments, rank_limit
from loramux_server.engine.chat_tokens import EngineChatTokens
from loramux_server.engine.client import RoutedEngine
from loramux_server.engine.effect_check import EngineProver
from loramux_server.engine.evaluation_client import EngineAsk
from loramux_server.engine.lora_directory import AdapterDirectory, LoraRequests
from loramux_server.engine.startup import mount_openai, vllm_engine
from loramux_server.lifecycle import Lifecycle
from loramux_server.machine import installed_backend
from loramux_server.metering.job_metrics import JobMetrics
from loramux_server.metering.ledger.writer import Limits
from loramux_server.metering.prometheus import Metrics
from loramux_server.metering.usage_recorder import Books, Upkeep
from loramux_server.middleware import Drain, add_error_handlers, shell
from loramux_server.middleware import Limits as BodyLimits
from loramux_server.middleware.end_user import note_user
from loramux_server.middleware.guards import ADAPTERS_PATH, FILES_PATH
from loramux_server.request_context import Meters
from loramux_server.settings import EXAMPLES, Settings

Progress = Callable[[str], None]

LORA_DEFAULTS = {"max_loras": 4, "max_cpu_loras": 32}
"""Adapters in one batch, and in host memory: enough for a trial, cheap on a small machine."""

USES_SECONDS = 60.0
"""How often the registry is told how much each version was used."""

FRONTEND_DEFAULTS = {
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "tool_strict_level": "parameter",  # a call's arguments always fit the tool's schema, also from a small model
    "enable_prompt_tokens_details": True,
    "use_tqdm_on_load": False,
}


@dataclass(frozen=True)
class Shelf:
    """What is durable about the adapters of one base."""

    base: BaseSpec
    weights: Path
    database: sa.Engine
    store: Store
    registry: Registry
    catalogue: Catalogue


@dataclass(frozen=True)
class Server:
    """A wired server: its application, and the handles that a life needs."""

    app: ASGIApp
    base_name: str
    library: Library
    jobs: Supervisor
    books: Books
    drain: Drain


async def serve(
    settings: Settings,
    base: ResolvedBase,
    suited: Mapping[str, Any],
    listener: socket.socket,
    tell: Progress,
    started: Callable[[Server], None],
) -> int:
    """Run a server of `base` on `listener` until something ends it; returns the exit code.

    `suited` are the arguments of vLLM that suit the machine, for what the settings leave open.
    """
    shelf = open_shelf(settings, base)
    arguments = engine_arguments(base.path, base.name, engine_options(suited, shelf.catalogue, settings))
    tell(f"starting vLLM with {base.name}")
    async with vllm_engine(arguments) as engine:
        server = await compose(settings, shelf, engine, arguments)
        await server.library.resume()
        await add_configured(server.library, settings, tell)
        life = Lifecycle(server.app, listener, lambda: engine.errored, server.drain.begin, settings.drain_seconds)
        keeping = server.books.kept() if settings.metering else server.books.accounts.settled()
        async with keeping, kept_up(server.library), server.jobs.working():
            return await life.run(started=lambda: started(server))


def open_shelf(settings: Settings, base: ResolvedBase) -> Shelf:
    """Open the store and the database, and read what is registered into memory."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = db.create_engine(settings.database_url)
    db.upgrade(database)
    store, registry = Store(settings.data_dir / "adapters"), Registry(database)
    store.sweep()
    spec = BaseSpec.from_folder(base.path, base.name)
    return Shelf(spec, base.path, database, store, registry, Catalogue(registry.snapshot(), store, spec))


def engine_options(suited: Mapping[str, Any], catalogue: Catalogue, settings: Settings) -> dict[str, Any]:
    """vLLM's arguments: what suits the machine and the adapters there are, and over it what the user set."""
    ranks = [version.manifest.rank for adapter in catalogue.adapters() for version in adapter.versions]
    ranks += filter(None, (declared_rank(source) for source in configured(settings).values()))
    ours = FRONTEND_DEFAULTS | {"max_lora_rank": rank_limit(ranks)}
    options = {**LORA_DEFAULTS, **suited, **ours, **settings.engine}
    if "max_loras" not in settings.engine:  # slots beyond the places could never be filled, so vLLM refuses them
        options["max_loras"] = min(options["max_loras"], options["max_cpu_loras"])
    return options


async def compose(
    settings: Settings, shelf: Shelf, engine: Any, arguments: Namespace, registry: CollectorRegistry = REGISTRY
) -> Server:
    """Wire a server around `engine` (vLLM's, or a fake of the same shape)."""
    metrics, drain = Metrics(registry, shelf.catalogue.is_pinned), Drain()
    metrics.watch(lambda: not engine.errored)
    books = Books(settings.prices, ledger_limits(settings), shelf.database, metrics, settings.traces_endpoint)
    requests = LoraRequests(shelf.catalogue, shelf.base.name)
    loader = EngineLoader(engine, requests, shelf.catalogue.verify)
    pool = AdapterPool(loader, arguments.max_cpu_loras, metrics, arguments.max_loras)
    refuse_other_base = settings.base_mismatch == "refuse"
    intake = Intake(shelf.store, shelf.registry, shelf.base, arguments.max_lora_rank, refuse_other_base)
    prover = EngineProver(engine, pool, requests) if settings.proof else None
    library = Library(intake, shelf.registry, shelf.catalogue, pool, prover, on_quarantine=metrics.quarantined)
    pool.on_damage = library.quarantine

    async def why_not_ready() -> str | None:
        if drain.has_begun:
            return "The server is shutting down."
        return "The engine is dead." if engine.errored else None

    app = FastAPI(title="loramux", docs_url=None, redoc_url=None)
    directory = AdapterDirectory(shelf.catalogue, requests)
    routed = RoutedEngine(engine, pool, library.quarantine, books.accounts)
    await mount_openai(app, routed, directory, arguments, before_each=note_user)
    add_error_handlers(app)
    app.include_router(models_router(ServedModels(shelf.base.name, library)))
    sources = Sources(books.reader, books.training, Upkeep(settings.prices, shelf.catalogue, books.training))
    for router in (
        aliases_router(library),
        additions_router(library, settings.allowed_roots, settings.allowed_urls),
        adapters_router(library),
        oversight_router(library),
        usage_router(sources, settings.prices.version),
    ):
        app.include_router(router)
    app.include_router(ops_router(why_not_ready, registry))
    app.include_router(dashboard_router())
    jobs = fine_tuning(
        app, settings, shelf, library, engine, EngineAsk(engine, pool, requests), JobMetrics(books.training, registry)
    )
    keys = Authenticator(key.get_secret_value() for key in settings.api_keys)
    adapter = sum(largest_file(shelf.base, arguments.max_lora_rank).values())
    limits = BodyLimits(settings.max_body_bytes, {ADAPTERS_PATH: adapter, FILES_PATH: MOST_BYTES})
    wrapped = shell(
        app,
        drain=drain,
        authenticator=keys,
        limits=limits,
        meter=Meters((metrics, books.accounts) if settings.metering else ()),
    )
    return Server(wrapped, shelf.base.name, library, jobs, books, drain)


def fine_tuning(
    app: FastAPI, settings: Settings, shelf: Shelf, library: Library, engine: Any, ask: Ask, observer: JobMetrics
) -> Supervisor:
    """Wire files and jobs, and return what works on the jobs."""
    files, registry = TrainingFiles(shelf.database, settings.data_dir / "files"), JobRegistry(shelf.database)
    files.sweep()
    cost, training = settings.prices.training_cost, settings.training
    tokens, context = EngineChatTokens(engine), engine.model_config.max_model_len
    examiner = Examiner(ask, tokens, context, training.trial_questions) if training.trial_questions else None
    plans = Plans(
        files=files,
        registry=registry,
        base=shelf.base,
        base_folder=shelf.weights,
        folder=settings.data_dir / "fine-tuning",
        max_rank=library.intake.max_rank,
        cost=cost,
        device=training.device,
        on_gpu=(installed_backend() if training.device == "auto" else training.device).startswith("cuda"),
        threads=training.threads,
        save_seconds=training.save_seconds,
    )
    delivery = Delivery(registry, library, files, examiner)
    supervisor = Supervisor(registry, plans, delivery, training.priority, observer)

    def check(path: Path) -> dict[str, Any]:
        return inspect(path, tokens, context).model_dump()

    views = JobViews(settings.organization, cost)
    app.include_router(files_router(files, check, registry.needs))
    app.include_router(fine_tuning_router(registry, plans, views, supervisor.wake, training.queue, observer.cancelled))
    return supervisor


def ledger_limits(settings: Settings) -> Limits:
    """Return how much of the ledger may be lost, and how long it is kept."""
    return Limits(
        flush_seconds=settings.usage_flush_seconds,
        record_days=settings.usage_record_days,
        sum_days=settings.usage_sum_days,
    )


def configured(settings: Settings) -> dict[str, FolderSource]:
    """Return where the adapters that the settings name come from."""
    roots = (*settings.allowed_roots, EXAMPLES)
    return {name: FolderSource(Path(folder), roots) for name, folder in settings.adapters.items()}


async def add_configured(library: Library, settings: Settings, tell: Progress) -> None:
    """Register the adapters that the settings name; one that can't be served is told and left out."""
    for name, source in configured(settings).items():
        try:
            version = await library.add(parse_adapter_name(name), source, actor="configuration", renew=False)
            if version.reason:
                tell(f"the adapter {name!r} is {version.state}: {version.reason}")
        except AdapterError as error:
            tell(f"left out the adapter {name!r}: {error.message}")


@asynccontextmanager
async def kept_up(library: Library) -> AsyncIterator[None]:
    """While the context lasts, bring in what is used most, and enter now and then what is used."""

    async def keep_up() -> None:
        await library.warm()
        while True:
            await asyncio.sleep(USES_SECONDS)
            with suppress(AdapterError):
                await library.flush_uses()

    keeping = asyncio.create_task(keep_up())
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(AdapterError):
            await library.close()
