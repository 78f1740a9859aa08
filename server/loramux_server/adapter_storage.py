"""Durable state of the adapters of one base: the store of their files, and the database."""

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.jobs.model_names import is_name_of_unfinished_job
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.model_aliases import ModelAliases
from loramux_adapters.registry.model_aliases import ModelAliasRegistry
from loramux_adapters.registry.registry import Registry
from loramux_adapters.resolver import AdapterResolver
from loramux_server import database as db
from loramux_server.settings import Settings


@dataclass(frozen=True)
class AdapterStorage:
    """The adapters of one base on disk, in the database, and as a resolver in memory."""

    base: BaseDescription
    base_folder: Path
    database: sa.Engine
    store: VersionStore
    registry: Registry
    resolver: AdapterResolver
    aliases: ModelAliases
    unquantized_base: Path | None = None
    """Folder of the base's unquantized weights, if jobs are to train on them."""


def open_storage(
    settings: Settings, base: BaseDescription, folder: Path, unquantized_base: Path | None = None
) -> AdapterStorage:
    """Open the store and the database, migrate it, and load the registered adapters of `base`, which is in `folder`.

    Raises:
        DatabaseTooNew: a newer release has migrated the database.

    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = db.create_engine(settings.database_url)
    db.upgrade(database)
    store, registry = VersionStore(settings.data_dir / "adapters"), Registry(database)
    store.clean_staging()
    resolver = AdapterResolver(registry.snapshot(), store, base.spec)
    aliases = ModelAliases(ModelAliasRegistry(database, is_name_of_unfinished_job), resolver, settings.aliases)
    return AdapterStorage(base, folder, database, store, registry, resolver, aliases, unquantized_base)
