"""The adapters that the settings name, and the engine options that follow from all adapters."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.ingest import declared_rank
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.models import parse_adapter_name
from loramux_adapters.resolver import AdapterResolver
from loramux_adapters.service import AdapterService
from loramux_server.configured_folders import ConfiguredFolders, configured_sources, folder_state
from loramux_server.engine.lora_ranks import max_lora_rank
from loramux_server.settings import Settings

LORA_DEFAULTS = {"max_loras": 4, "max_cpu_loras": 32}
"""Adapters per batch, and in host memory: enough for a first try, cheap on a small machine."""

FRONTEND_DEFAULTS = {
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "tool_strict_level": "parameter",  # a call's arguments always match the tool's schema, even from a small model
    "enable_prompt_tokens_details": True,
    "use_tqdm_on_load": False,
}


def engine_options(machine_defaults: Mapping[str, Any], max_rank: int, settings: Settings) -> dict[str, Any]:
    """Return vLLM's arguments: defaults for the machine and the known adapters, overridden by the settings."""
    ours = FRONTEND_DEFAULTS | {"max_lora_rank": max_rank}
    chosen = {
        key: value
        for key, value in settings.engine.items()
        if key != "max_lora_rank" or not is_rank_automatic(settings)
    }
    options = {**LORA_DEFAULTS, **machine_defaults, **ours, **chosen}
    if "max_loras" not in settings.engine:  # vLLM refuses more slots than adapters in host memory
        options["max_loras"] = min(options["max_loras"], options["max_cpu_loras"])
    return options


def required_rank(resolver: AdapterResolver, settings: Settings) -> int:
    """Return the engine's limit of ranks that the known adapters need."""
    ranks = [version.manifest.rank for adapter in resolver.adapters() for version in adapter.versions]
    return max_lora_rank(ranks + _declared_ranks(resolver, settings))


def is_rank_automatic(settings: Settings) -> bool:
    """Whether the limit of ranks follows from the adapters: at start, and when others are added."""
    return bool(settings.engine.get("max_lora_rank", "auto") == "auto")


def _declared_ranks(resolver: AdapterResolver, settings: Settings) -> list[int]:
    """Return the ranks of the configured adapters, except of those that are registered and have not changed."""
    folders, sources = ConfiguredFolders(settings.data_dir), configured_sources(settings)
    known = {name: folders.version(name, folder_state(source)) for name, source in sources.items()}
    changed = [source for name, source in sources.items() if resolver.version(known[name] or "") is None]
    return [rank for rank in map(declared_rank, changed) if rank]


async def add_configured(adapter_service: AdapterService, settings: Settings, report_progress: ReportProgress) -> None:
    """Register the adapters that the settings name; report and skip those that can't be served.

    Folders that have not changed since they were registered are not read.
    """
    folders = ConfiguredFolders(settings.data_dir)
    folders.apply_rules(version("loramux"), *adapter_service.ingest.rules, settings.allowed_roots)
    for name, source in configured_sources(settings).items():
        state = folder_state(source)
        try:
            added = adapter_service.resolver.version(folders.version(name, state) or "")
            if added is None:
                added = await adapter_service.add(
                    parse_adapter_name(name), source, actor="configuration", skip_existing=True
                )
                folders.remember(name, state, str(added.id))
            if added.reason:
                report_progress(f"the adapter {name!r} is {added.state}: {added.reason}")
        except AdapterError as error:
            report_progress(f"skipped the adapter {name!r}: {error.message}")
    with suppress(OSError):  # the next start reads the folders again
        folders.write()
