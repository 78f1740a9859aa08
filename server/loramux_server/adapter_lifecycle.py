"""The adapter service of a server, and its background work."""

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.chat.policy import ChatPolicy
from loramux_adapters.intake.ingest import AdapterIngest
from loramux_adapters.intake.validation.unserved import unserved_reason
from loramux_adapters.models import VersionState
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.service import AdapterService
from loramux_server.adapter_storage import AdapterStorage
from loramux_server.engine.admission import UseEngine
from loramux_server.engine.effect_check import EngineEffectChecker
from loramux_server.engine.lora_directory import LoraRequests
from loramux_server.engine.rank_limit import RankLimit
from loramux_server.engine.served_chat import served_chat
from loramux_server.metering.prometheus import PrometheusMetrics
from loramux_server.settings import Settings

SAVE_USES_SECONDS = 60.0
"""Interval at which use counts are saved to the registry."""


def build_adapter_service(
    settings: Settings,
    storage: AdapterStorage,
    engine: Any,
    pool: AdapterPool,
    requests: LoraRequests,
    arguments: Namespace,
    ranks: RankLimit,
    metrics: PrometheusMetrics,
    use: UseEngine = nullcontext,
) -> AdapterService:
    """Return the service that adds, checks and removes adapters."""
    refuse_other_base = settings.base_mismatch == "refuse"
    ingest = AdapterIngest(
        storage.store,
        storage.registry,
        storage.base,
        ranks.maximum,
        refuse_other_base,
        storage.base_folder,
        ChatPolicy(served_chat(engine, arguments), settings.adapter_chat_template),
    )
    effect_check = EngineEffectChecker(engine, pool, requests, use) if settings.proof else None
    return AdapterService(
        ingest,
        storage.registry,
        storage.resolver,
        pool,
        effect_check,
        ranks.ensure,
        on_quarantine=metrics.quarantined,
    )


def quarantine_unserved(adapter_service: AdapterService, storage: AdapterStorage) -> None:
    """Take versions out of service whose weights this engine would ignore, though another one applied them."""
    for adapter in storage.resolver.adapters():
        for version in adapter.versions:
            accepted_for = version.manifest.base.modules_digest
            if version.state is VersionState.READY and accepted_for != storage.base.spec.modules_digest:
                reason = unserved_reason(storage.store.path(version.manifest.digest), storage.base)
                if reason:
                    adapter_service.quarantine(version.id, reason)


@asynccontextmanager
async def maintenance(adapter_service: AdapterService) -> AsyncIterator[None]:
    """Load the most used adapters, then save use counts at intervals, until the context ends."""

    async def maintain() -> None:
        await adapter_service.warm_up()
        while True:
            await asyncio.sleep(SAVE_USES_SECONDS)
            with suppress(AdapterError):
                await adapter_service.flush_use_counts()

    task = asyncio.create_task(maintain())
    try:
        yield
    finally:
        task.cancel()
        with suppress(AdapterError):
            await adapter_service.close()
