"""The composition root: builds the server, wires its parts and runs it, in the order of docs/structures.md."""

import asyncio
import socket
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.types import ASGIApp

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.supervisor import Supervisor
from loramux_adapters.finetuning.jobs.training_files import MAX_FILE_BYTES
from loramux_adapters.finetuning.jobs.uploads import MAX_PART_BYTES
from loramux_adapters.intake.chat.companions import COMPANION_LIMITS
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.validation import max_file_sizes
from loramux_adapters.model_aliases import ModelAliases
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.service import AdapterService
from loramux_server.adapter_lifecycle import build_adapter_service, maintenance, quarantine_unserved
from loramux_server.adapter_storage import AdapterStorage, open_storage
from loramux_server.api.adapters.aliases import aliases_router
from loramux_server.api.adapters.audit import audit_router
from loramux_server.api.adapters.content import content_router
from loramux_server.api.adapters.create import create_router
from loramux_server.api.adapters.routes import adapters_router
from loramux_server.api.fine_tuning.uploads import PARTS_PATTERN
from loramux_server.api.health import health_router
from loramux_server.api.keys import keys_router
from loramux_server.api.limits import limits_router
from loramux_server.api.model_aliases import model_aliases_router
from loramux_server.api.models import ServedModels, models_router
from loramux_server.api.prices import prices_router
from loramux_server.api.usage.report import UsageSources
from loramux_server.api.usage.routes import usage_router
from loramux_server.auth import Authenticator
from loramux_server.base_model import ResolvedBase, resolve_unquantized
from loramux_server.configured_adapters import add_configured, engine_options, is_rank_automatic, required_rank
from loramux_server.controlled_results.experiment_results import ExperimentResults
from loramux_server.controlled_results.job_results import JobResults
from loramux_server.dashboard import dashboard_router
from loramux_server.described_base import describe_base
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.adapter_templates import AdapterTemplates, use_adapter_templates
from loramux_server.engine.admission import EngineAdmission
from loramux_server.engine.anthropic_messages import place_system_messages
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.calibration import EngineCalibration
from loramux_server.engine.chat_tokens import EngineChatTokens
from loramux_server.engine.client import LeasingEngineClient, Prove
from loramux_server.engine.evaluation_client import EngineEvaluationClient
from loramux_server.engine.fair_admission import build_fair_admission
from loramux_server.engine.grammars.sandbox import grammar_sandbox
from loramux_server.engine.lora_directory import AdapterDirectory, LoraRequests
from loramux_server.engine.rank_limit import RankLimit, can_grow
from loramux_server.engine.served_rendering import served_rendering
from loramux_server.engine.sleep import EngineSleep
from loramux_server.engine.startup import mount_openai, vllm_engine
from loramux_server.experimentation import Experimentation, ExperimentParts, build_experimentation
from loramux_server.experiments.repository import ExperimentRepository
from loramux_server.fine_tuning import build_fine_tuning, wait_for_trainer
from loramux_server.forced_exit import EXIT_SECONDS, SAVE_SECONDS, exit_within
from loramux_server.keys.repository import KeyRepository
from loramux_server.keys.service import ApiKeys
from loramux_server.lifecycle import Lifecycle
from loramux_server.limits.server_limits import ServerLimits
from loramux_server.machine import installed_backend, this_machine
from loramux_server.metering.fixed_costs import FixedCostSource
from loramux_server.metering.idle_calibration import IdleCalibration
from loramux_server.metering.job_metrics import JobMetrics
from loramux_server.metering.ledger.calibrations import Calibration, Calibrations
from loramux_server.metering.ledger.price_history import PriceHistory
from loramux_server.metering.ledger.writer import LedgerLimits
from loramux_server.metering.price_versions import CurrentPrices
from loramux_server.metering.prometheus import PrometheusMetrics
from loramux_server.metering.usage_recorder import UsageRecorder
from loramux_server.metering.use_counts import UseCounts
from loramux_server.middleware import BodyLimits, DrainState, add_error_handlers, add_middleware
from loramux_server.middleware.guards import ADAPTERS_PATH, FILES_PATH
from loramux_server.middleware.request_size import limit_sequences
from loramux_server.model_access import ModelAccess, read_usable_model
from loramux_server.readiness import Readiness
from loramux_server.request_context import CompositeMeter
from loramux_server.settings import Settings
from loramux_server.transport.tls import open_tls

SuitedArguments = Callable[[BaseDescription, int], Mapping[str, Any]]
"""Returns vLLM's arguments for a base and the largest rank of its adapters."""


@dataclass(frozen=True)
class Server:
    """A wired server: its application, and the parts that run in the background."""

    app: ASGIApp
    base_name: str
    adapter_service: AdapterService
    aliases: ModelAliases
    keys: ApiKeys
    job_supervisor: Supervisor
    usage_recorder: UsageRecorder
    experimentation: Experimentation
    limits: ServerLimits
    idle_calibration: IdleCalibration
    readiness: Readiness


async def serve(
    settings: Settings,
    base: ResolvedBase,
    suited_arguments: SuitedArguments,
    listener: socket.socket,
    report_progress: ReportProgress,
    on_started: Callable[[Server], None],
) -> int:
    """Serve `base` on `listener` until a signal or the engine's failure; returns the exit code.

    `suited_arguments` returns vLLM's arguments for this machine and the base, which the settings override. It measures
    the machine when it is called.
    """
    tls = open_tls(settings)
    unquantized = resolve_unquantized(settings.training.base, settings.data_dir, report_progress)
    storage = open_storage(settings, describe_base(base, settings, report_progress), base.path, unquantized)
    if installed_backend() == "cuda":  # before the memory is measured, of which that trainer still has a part
        await wait_for_trainer(settings.data_dir, report_progress)
    max_rank = required_rank(storage.resolver, settings)
    options = engine_options(suited_arguments(storage.base, max_rank), max_rank, settings)
    refusal = storage.base.refusal
    arguments = engine_arguments(
        base.path, base.name, options, enable_lora=refusal is None, enable_sleep_mode=settings.training.sleep
    )
    report_progress(f"starting vLLM with {base.name}{_limits(storage.base)}")
    async with vllm_engine(arguments) as engine, grammar_sandbox(engine, settings.grammars) as sandbox:
        server = await build_server(settings, storage, engine, arguments, prove=sandbox.prove)
        quarantine_unserved(server.adapter_service, storage)
        await server.adapter_service.resume_checks()
        await add_configured(server.adapter_service, settings, report_progress)
        for sentence in server.aliases.unused():
            report_progress(sentence)
        if server.keys.lookup.count and not settings.api_keys:
            report_progress("the API keys of the database are not used: `api_keys` (LORAMUX_API_KEYS) is empty")
        is_dead = server.readiness.is_engine_dead
        lifecycle = Lifecycle(
            server.app,
            listener,
            is_dead,
            server.readiness.drain.start,
            settings.drain_seconds,
            settings.connections,
            tls,
        )
        recorder = server.usage_recorder
        recording = recorder.recording() if settings.metering else recorder.meter.charging()
        experiments, calibration = server.experimentation.running(), server.idle_calibration.running()
        jobs, upkeep = server.job_supervisor.running(), maintenance(server.adapter_service)
        limits, keys, aliases = server.limits.running(), server.keys.following(), server.aliases.following()
        following = tls.following() if tls else nullcontext()
        # Recording ends before the experiments: its last charges are of the last requests of an experiment.
        async with experiments, recording, limits, upkeep, jobs, calibration, keys, aliases, following:
            code = await lifecycle.run(on_started=lambda: on_started(server))
            exit_within(SAVE_SECONDS + EXIT_SECONDS, code)
        exit_within(EXIT_SECONDS, code)
        return code


def _limits(base: BaseDescription) -> str:
    """Say which adapters of the base are not served."""
    if base.refusal:
        return f", without adapters: {base.refusal}"
    return f", without adapters of its experts: {base.experts_refusal}" if base.experts_refusal else ""


async def build_server(
    settings: Settings,
    storage: AdapterStorage,
    engine: Any,
    arguments: Namespace,
    registry: CollectorRegistry = REGISTRY,
    prove: Prove | None = None,
) -> Server:
    """Wire a server around `engine` (vLLM's, or a fake with the same interface); `prove` checks forms of answers."""
    metrics, drain, admission = PrometheusMetrics(registry, storage.resolver.is_pinned), DrainState(), EngineAdmission()
    readiness = Readiness(engine, admission, drain)
    metrics.watch_engine(lambda: not readiness.is_engine_dead())
    metrics.watch_sleep(lambda: not admission.is_awake)
    ledger_limits = _ledger_limits(settings)
    prices = _current_prices(settings, storage)
    limits = ServerLimits(settings.limits, storage.database, prices)
    parts = ExperimentParts(settings, storage, registry)
    sinks = (parts.recorder,)
    recorder = UsageRecorder(prices, ledger_limits, storage.database, metrics, settings.traces_endpoint, sinks)
    requests = LoraRequests(storage.resolver, storage.base.name)
    loader = EngineLoader(engine, requests, storage.resolver.verify, admission.use)
    pool = AdapterPool(loader, arguments.max_cpu_loras, metrics, arguments.max_loras)
    grows = is_rank_automatic(settings) and can_grow(engine)
    ranks = RankLimit(engine, arguments.max_lora_rank, grows=grows, use=admission.use)
    adapter_service = build_adapter_service(
        settings, storage, engine, pool, requests, arguments, ranks, metrics, admission.use
    )

    keys = ApiKeys(KeyRepository(storage.database))
    await asyncio.to_thread(keys.refresh)
    authenticator = Authenticator((key.get_secret_value() for key in settings.api_keys), keys.lookup)
    app = FastAPI(title="loramux", docs_url=None, redoc_url=None)
    directory, access = AdapterDirectory(storage.resolver, requests), ModelAccess(storage.resolver, storage.base.name)
    calibration = _idle_calibration(settings, prices, engine, admission)
    routed = LeasingEngineClient(
        engine,
        pool,
        adapter_service.quarantine,
        recorder.meter,
        calibration.request_started,
        readiness.check,
        limits.limiter.start_run,
        prove,
        share_prefix_cache=settings.share_prefix_cache,
        fairness=build_fair_admission(engine, settings.fairness, registry),
    )
    experimentation = build_experimentation(
        parts, settings, storage, adapter_service, engine, recorder.meter, admission.background
    )
    wrap_chat, names = experimentation.wrap_chat, storage.resolver
    read_body = limit_sequences(read_usable_model(access), settings.requests.max_sequences)
    await mount_openai(app, routed, directory, arguments, read_body, wrap_chat, names)
    add_error_handlers(app)
    experimentation.add_routes(app)
    _add_routes(app, settings, storage, adapter_service, recorder, ledger_limits.record_seconds, access)
    app.include_router(limits_router(limits))
    app.include_router(keys_router(keys, is_open=authenticator.is_open))
    app.include_router(health_router(readiness.not_ready_reason, registry, readiness.engine_state))
    chat, job_metrics = app.state.openai_serving_chat, JobMetrics(recorder.training_costs, registry)
    if settings.adapter_chat_template != "ignore":
        templates = AdapterTemplates(storage.resolver)
        use_adapter_templates(chat, templates)
        place_system_messages(app.state.anthropic_serving_messages, templates)
    tokens = EngineChatTokens(engine, served_rendering(chat))
    ask = EngineEvaluationClient(chat, storage.base.name, tokens.rendering)
    sleep = EngineSleep(engine, admission, on_awake=adapter_service.resume_checks)
    supervisor = build_fine_tuning(
        app, settings, storage, adapter_service, tokens, ask, job_metrics, prices, sleep, access
    )
    uses = UseCounts(storage.resolver.count_use)
    wrapped = add_middleware(
        app,
        drain=drain,
        authenticator=authenticator,
        limits=_body_limits(settings, storage, ranks.maximum),
        max_values=settings.requests.max_values,
        meter=CompositeMeter((uses, metrics, parts.feedback.recent, recorder.meter) if settings.metering else (uses,)),
        admit=admission.request,
        origins=settings.cors_origins,
        start=limits.limiter.start,
        price_of=limits.price_of,
    )
    name, aliases = storage.base.name, storage.aliases
    return Server(
        wrapped,
        name,
        adapter_service,
        aliases,
        keys,
        supervisor,
        recorder,
        experimentation,
        limits,
        calibration,
        readiness,
    )


def _add_routes(
    app: FastAPI,
    settings: Settings,
    storage: AdapterStorage,
    adapter_service: AdapterService,
    recorder: UsageRecorder,
    record_seconds: float,
    access: ModelAccess,
) -> None:
    app.include_router(models_router(ServedModels(storage.base.name, adapter_service, storage.aliases, access)))
    fixed_costs = FixedCostSource(recorder.prices, storage.resolver, recorder.training_costs)
    jobs = JobResults(JobRegistry(storage.database), storage.resolver)
    controlled = (jobs, ExperimentResults(ExperimentRepository(storage.database)))
    sources = UsageSources(recorder.reader, recorder.training_costs, fixed_costs, storage.resolver.targets, controlled)
    for router in (
        aliases_router(adapter_service),
        model_aliases_router(storage.aliases, storage.resolver),
        content_router(adapter_service),
        create_router(adapter_service, settings.allowed_roots, settings.allowed_urls),
        adapters_router(adapter_service),
        audit_router(adapter_service),
        usage_router(sources, recorder.prices, record_seconds),
        prices_router(recorder.prices),
        dashboard_router(),
    ):
        app.include_router(router)


def _current_prices(settings: Settings, storage: AdapterStorage) -> CurrentPrices:
    calibrations = Calibrations(storage.database, storage.base.name, this_machine(settings.data_dir).description)
    return CurrentPrices(PriceHistory(storage.database), calibrations, settings.prices)


def _idle_calibration(
    settings: Settings, prices: CurrentPrices, engine: Any, admission: EngineAdmission
) -> IdleCalibration:
    calibrate = EngineCalibration(engine)

    def is_busy() -> bool:
        return not admission.is_awake or bool(engine.output_processor.get_num_unfinished_requests())

    async def measure() -> Calibration | None:
        async with admission.background():
            return await calibrate()

    idle_seconds = settings.calibration_idle_seconds if settings.metering else 0
    return IdleCalibration(measure, prices, is_busy, idle_seconds or None)


def _body_limits(settings: Settings, storage: AdapterStorage, max_rank: int) -> BodyLimits:
    adapter_bytes = sum((max_file_sizes(storage.base, max_rank) | COMPANION_LIMITS).values())
    uploads = {ADAPTERS_PATH: adapter_bytes, FILES_PATH: MAX_FILE_BYTES, PARTS_PATTERN: MAX_PART_BYTES}
    return BodyLimits(settings.max_body_bytes, uploads)


def _ledger_limits(settings: Settings) -> LedgerLimits:
    return LedgerLimits(
        flush_seconds=settings.usage_flush_seconds,
        record_days=settings.usage_record_days,
        rollup_days=settings.usage_rollup_days,
    )
