"""Wiring of fine-tuning: training files, jobs, and their routes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from loramux_adapters.finetuning.datasets.inspection import inspect_dataset
from loramux_adapters.finetuning.jobs.engine_memory import EngineMemory
from loramux_adapters.finetuning.jobs.evaluation import CompleteChat, Evaluator
from loramux_adapters.finetuning.jobs.file_expiry import FileExpiry
from loramux_adapters.finetuning.jobs.job_runner import JobRunner
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_publisher import ResultPublisher
from loramux_adapters.finetuning.jobs.self_test import SelfTest
from loramux_adapters.finetuning.jobs.starting_point import StartingPoints
from loramux_adapters.finetuning.jobs.supervisor import Supervisor
from loramux_adapters.finetuning.jobs.trainer_lock import LOCK_FILE, is_trainer_running, wait_until_released
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.uploads import Uploads
from loramux_adapters.finetuning.jobs.wandb_runs import WandbRuns
from loramux_adapters.finetuning.jobs.work_folders import WorkFolders
from loramux_adapters.finetuning.recipes.memory_demand import TrainingDevice
from loramux_adapters.finetuning.trainer_process import TrainerLauncher
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.service import AdapterService
from loramux_server.adapter_storage import AdapterStorage
from loramux_server.api.fine_tuning.files import files_router
from loramux_server.api.fine_tuning.routes import fine_tuning_router
from loramux_server.api.fine_tuning.schemas import JobSerializer
from loramux_server.api.fine_tuning.unsupported import unsupported_router
from loramux_server.api.fine_tuning.uploads import uploads_router
from loramux_server.engine.chat_tokens import EngineChatTokens
from loramux_server.machine import installed_backend, this_machine
from loramux_server.metering.job_metrics import JobMetrics
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.pricing import PriceSource
from loramux_server.model_access import ModelAccess
from loramux_server.settings import Settings
from loramux_server.settings.wandb_environment import wandb_environment
from loramux_server.training_devices import training_devices
from loramux_server.webhooks.delivery import WebhookDelivery
from loramux_server.webhooks.outbox import Outbox

JOBS_FOLDER = "fine-tuning"
MAX_TRAINER_WAIT_SECONDS = 90.0
"""A trainer has 60 seconds to save its state."""


def build_fine_tuning(
    app: FastAPI,
    settings: Settings,
    storage: AdapterStorage,
    adapter_service: AdapterService,
    tokens: EngineChatTokens,
    complete: CompleteChat,
    metrics: JobMetrics,
    prices: PriceSource,
    engine_memory: EngineMemory,
    access: ModelAccess,
) -> Supervisor:
    """Add the routes for files and jobs to `app`, and return the supervisor that runs the jobs."""
    outbox = Outbox(storage.database, settings.webhooks)
    registry = JobRegistry(storage.database, outbox.add)
    files = TrainingFiles(storage.database, settings.data_dir / "files")
    uploads = Uploads(storage.database, settings.data_dir / "uploads", files)
    files.sweep()
    uploads.sweep()
    context, items = tokens.max_context_tokens, settings.training.evaluation_items
    compared_tokens = context - tokens.reasoning_tokens
    starting_points = StartingPoints(adapter_service.resolver, storage.base)
    max_rank = adapter_service.ingest.max_rank
    planner = _planner(settings, storage, files, registry, starting_points, max_rank, tokens, prices)
    publisher = ResultPublisher(
        registry,
        adapter_service,
        files,
        Evaluator(complete, tokens, compared_tokens, items, settings.training.evaluation_margin) if items else None,
        SelfTest(complete, tokens) if settings.training.self_test else None,
        aliases=storage.aliases,
    )
    launcher = TrainerLauncher(settings.training.priority)
    lent_memory = engine_memory if settings.training.sleep else None
    webhooks = WebhookDelivery(outbox, settings.webhooks, metrics.webhook_attempted)
    wandb_runs = WandbRuns(registry, storage.base.name, wandb_environment())
    supervisor = Supervisor(
        JobRunner(registry, planner, publisher, launcher, metrics, engine_memory=lent_memory),
        companions=(webhooks.run_forever, FileExpiry(files, uploads).run_forever),
        trainer_companions=(wandb_runs.run_forever,),
    )

    def check(path: Path, filename: str) -> dict[str, Any]:
        return inspect_dataset(path, tokens, context, filename).model_dump()

    recorded_costs, max_queued = TrainingCosts(storage.database, prices).of_jobs, settings.training.queue
    serializer = JobSerializer(settings.organization, planner.cost, recorded_costs=recorded_costs)
    app.include_router(files_router(files, check, settings.result_encoding))
    app.include_router(uploads_router(uploads, check))
    app.include_router(unsupported_router())
    app.include_router(
        fine_tuning_router(
            registry,
            planner,
            serializer,
            supervisor.check_now,
            max_queued,
            metrics.cancelled,
            storage.aliases.check_name,
            wandb_runs.missing,
            access,
        )
    )
    return supervisor


async def wait_for_trainer(data_dir: Path, report_progress: ReportProgress) -> None:
    """Wait for the trainer of a server that was killed: it saves its state, and still has the GPU's memory.

    It goes on after MAX_TRAINER_WAIT_SECONDS: another server that shares the folder may be training.
    """
    lock = data_dir / JOBS_FOLDER / LOCK_FILE
    if is_trainer_running(lock):
        report_progress("waiting for the trainer of the last server, which saves its state")
        await wait_until_released(lock, MAX_TRAINER_WAIT_SECONDS)


def _planner(
    settings: Settings,
    storage: AdapterStorage,
    files: TrainingFiles,
    registry: JobRegistry,
    starting_points: StartingPoints,
    max_rank: int,
    tokens: EngineChatTokens,
    prices: PriceSource,
) -> JobPlanner:

    def training_cost(tokens: int, seconds: float) -> dict[str, float | None]:
        return prices.current.training_cost(tokens, seconds)

    training = settings.training
    backend = installed_backend()
    device = backend if training.device == "auto" else training.device

    def find_devices() -> Sequence[TrainingDevice]:
        machine = this_machine(settings.data_dir)
        return training_devices(machine, backend, training.device, engine_sleeps=training.sleep)

    return JobPlanner(
        files=files,
        registry=registry,
        base=storage.base,
        base_folder=storage.base_folder,
        folders=WorkFolders(settings.data_dir / JOBS_FOLDER),
        max_rank=max_rank,
        rendering=tokens.rendering,
        cost=training_cost,
        device=training.device,
        trains_on_gpu=device.startswith("cuda"),
        find_devices=find_devices,
        quantize=training.quantize,
        unquantized_base=storage.unquantized_base,
        served_dtype=tokens.dtype,
        threads=training.threads,
        save_seconds=training.save_seconds,
        evaluation_items=training.evaluation_items,
        starting_points=starting_points,
        early_stopping_patience=training.early_stopping_patience,
        machine=_describe_machine(settings.data_dir, device),
        cpu_machine=_describe_machine(settings.data_dir, "cpu"),
    )


def _describe_machine(folder: Path, device: str) -> str:
    """Return what the speed of training depends on: trained on the same, a job takes as long again."""
    machine = this_machine(folder)
    gpus = ", ".join(gpu.name for gpu in machine.gpus) if device.startswith("cuda") else ""
    return f"{device}: {gpus or f'{machine.cores} cores, {machine.cpu_model}'}"
