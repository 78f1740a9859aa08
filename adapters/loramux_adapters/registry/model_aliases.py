"""The registry of model aliases: other names of the base, of adapters and of versions, in the database."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, select, update

from loramux_adapters.errors import AliasConflict, AliasNotFound
from loramux_adapters.models import AdapterName
from loramux_adapters.registry.tables import adapters, audit, model_aliases
from loramux_adapters.registry.transaction import ChangedBy, insert_if_missing, lock_name, store_errors


@dataclass(frozen=True, slots=True)
class ModelAlias:
    """Another name of a model; `target` is the name of the base, of an adapter or of a version, which may be gone.

    `created_at` is in Unix seconds, and `actor` set it; None for one that the settings define.
    """

    name: AdapterName
    target: str
    created_at: float
    actor: str | None


class ModelAliasRegistry:
    """The model aliases in the database `engine`. Every method raises StoreError if the database fails.

    `is_reserved` says in a transaction whether a name is that of a model to come.
    """

    def __init__(
        self, engine: Engine, is_reserved: Callable[[Connection, AdapterName], bool] = lambda _connection, _name: False
    ) -> None:
        self._engine, self._is_reserved = engine, is_reserved

    def all(self) -> list[ModelAlias]:
        """Return all aliases, sorted by name."""
        with store_errors(), self._engine.connect() as connection:
            return [
                ModelAlias(*row) for row in connection.execute(select(model_aliases).order_by(model_aliases.c.name))
            ]

    def set(self, name: AdapterName, target: str, by: ChangedBy) -> ModelAlias:
        """Make `name` an alias of `target`, whatever it was an alias of before, and return what is stored.

        Nothing changes if it already is one of this target.

        Raises:
            AliasConflict: an adapter, of this base or of another one, has this name or will have it.
        """
        values = {"name": name, "target": target, "created_at": by.at, "actor": by.actor}
        with store_errors(), self._engine.begin() as connection:
            lock_name(connection, name)
            before = _stored(connection, name)
            if before is not None and before.target == target:
                return before
            # Jobs first: the adapter of one that has just ended was there before.
            if self._is_reserved(connection, name):
                raise AliasConflict(
                    f"{name} will be the name of a fine-tuning job's model: choose another alias, or cancel the job."
                )
            if connection.execute(select(adapters.c.name).where(adapters.c.name == name)).first():
                raise AliasConflict(f"{name} is the name of an adapter: choose another alias, or remove the adapter.")
            insert_if_missing(connection, model_aliases, values)
            connection.execute(update(model_aliases).where(model_aliases.c.name == name).values(values))
            _write_audit(connection, name, by, "alias_set", before.target if before else None, target)
        return ModelAlias(name, target, by.at, by.actor)

    def remove(self, name: AdapterName, by: ChangedBy) -> ModelAlias:
        """Remove an alias and return it.

        Raises:
            AliasNotFound: there is none of this name.
        """
        with store_errors(), self._engine.begin() as connection:
            before = _stored(connection, name)
            if before is None:
                raise AliasNotFound(f"There is no alias {name}.")
            connection.execute(delete(model_aliases).where(model_aliases.c.name == name))
            _write_audit(connection, name, by, "alias_remove", before.target, None)
        return before


def _stored(connection: Connection, name: AdapterName) -> ModelAlias | None:
    """Return the alias of this name, None if there is none."""
    # The first statement writes, so that SQLite takes its write lock before anything is read.
    connection.execute(update(model_aliases).where(model_aliases.c.name == name).values(name=name))
    row = connection.execute(select(model_aliases).where(model_aliases.c.name == name)).one_or_none()
    return None if row is None else ModelAlias(*row)


def _write_audit(
    connection: Connection, name: AdapterName, by: ChangedBy, action: str, before: str | None, after: str | None
) -> None:
    values = {"at": by.at, "actor": by.actor, "action": action, "adapter": name, "before": before, "after": after}
    connection.execute(audit.insert().values(values))
