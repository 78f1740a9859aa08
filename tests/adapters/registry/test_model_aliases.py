from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AdapterExists, AliasConflict, AliasNotFound, StoreError
from loramux_adapters.models import parse_adapter_name
from loramux_adapters.registry.model_aliases import ModelAlias, ModelAliasRegistry
from loramux_adapters.registry.registry import Registry
from loramux_server import database as db
from tests.helpers.migrated_database import migrated_database
from tests.helpers.registry_records import SOURCE, TONE, at, manifest

GPT, OLD = parse_adapter_name("gpt-4o-mini"), parse_adapter_name("ft:gpt-4o-mini-2024-07-18:acme::abc123")


@pytest.fixture
def database(tmp_path: Path) -> sa.Engine:
    return migrated_database(tmp_path / "loramux.sqlite")


@pytest.fixture
def aliases(database: sa.Engine) -> ModelAliasRegistry:
    return ModelAliasRegistry(database)


def test_aliases_are_set_changed_and_removed_with_a_row_in_the_audit_log_each(
    database: sa.Engine, aliases: ModelAliasRegistry
) -> None:
    aliases.set(GPT, "tone", at(1.0))
    aliases.set(OLD, "tone", at(2.0))
    aliases.set(GPT, "base", at(3.0, "key_2"))
    assert aliases.all() == [ModelAlias(OLD, "tone", 2.0, "key_1"), ModelAlias(GPT, "base", 3.0, "key_2")]
    assert aliases.remove(GPT, at(4.0)).target == "base"
    assert [alias.name for alias in aliases.all()] == [OLD]
    rows = [(row.action, row.before, row.after) for row in Registry(database).audit(GPT, 10)]
    assert rows == [("alias_remove", "base", None), ("alias_set", "tone", "base"), ("alias_set", None, "tone")]


def test_setting_an_alias_to_the_same_target_again_changes_nothing(
    database: sa.Engine, aliases: ModelAliasRegistry
) -> None:
    first = aliases.set(GPT, "tone", at(1.0))
    assert aliases.set(GPT, "tone", at(2.0, "key_2")) == first
    assert aliases.all() == [ModelAlias(GPT, "tone", 1.0, "key_1")]
    assert len(Registry(database).audit(GPT, 10)) == 1


def test_an_unknown_alias_can_t_be_removed(aliases: ModelAliasRegistry) -> None:
    with pytest.raises(AliasNotFound, match="gpt-4o-mini"):
        aliases.remove(GPT, at(1.0))


def test_an_adapter_and_an_alias_never_have_the_same_name(database: sa.Engine, aliases: ModelAliasRegistry) -> None:
    registry = Registry(database)
    aliases.set(GPT, "tone", at(1.0))
    with pytest.raises(AdapterExists, match="gpt-4o-mini is an alias of tone"):
        registry.add_version(GPT, manifest("a1"), SOURCE, at(2.0))
    registry.add_version(TONE, manifest("a1"), SOURCE, at(3.0))
    with pytest.raises(AliasConflict, match="name of an adapter"):
        aliases.set(TONE, "base", at(4.0))
    assert [alias.name for alias in aliases.all()] == [GPT]
    assert [record.name for record in registry.snapshot()] == [TONE]


def test_of_an_alias_and_an_adapter_that_are_added_at_the_same_time_one_is_refused(database: sa.Engine) -> None:
    registry, aliases = Registry(database), ModelAliasRegistry(database)

    def add_alias(number: int) -> bool:
        try:
            aliases.set(parse_adapter_name(f"name-{number}"), "base", at(1.0))
        except AliasConflict:
            return False
        return True

    def add_adapter(number: int) -> bool:
        try:
            registry.add_version(parse_adapter_name(f"name-{number}"), manifest("a1"), SOURCE, at(1.0))
        except AdapterExists:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        outcomes = [(threads.submit(add_alias, n), threads.submit(add_adapter, n)) for n in range(10)]
    assert all(alias.result() != adapter.result() for alias, adapter in outcomes)


def test_a_database_that_fails_is_a_store_error_without_details(tmp_path: Path) -> None:
    aliases = ModelAliasRegistry(db.create_engine(f"sqlite:///{tmp_path / 'empty.sqlite'}"))
    for fail in (aliases.all, lambda: aliases.set(GPT, "tone", at(1.0)), lambda: aliases.remove(GPT, at(1.0))):
        with pytest.raises(StoreError, match=r"^The adapter registry can't be read or written\.$"):
            fail()
