"""Model aliases: other names of the base, of adapters and of versions, in the settings and in the database."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import AliasConflict, AliasTargetMissing, StoreError
from loramux_adapters.models import AdapterName, parse_adapter_name
from loramux_adapters.registry.model_aliases import ModelAlias, ModelAliasRegistry
from loramux_adapters.registry.transaction import ChangedBy
from loramux_adapters.resolver import AdapterResolver

logger = logging.getLogger("loramux.adapters")

REFRESH_SECONDS = 2.0
"""Time between two looks at the database, where another server may have changed the aliases."""


class ModelAliases:
    """The aliases of a server: those of its settings, and those in the database, which all its servers share.

    `resolver` applies them. An alias of the settings precedes one of the same name in the database, and only the
    settings change it. The constructor blocks on the database.

    Raises:
        InvalidAdapterName: an alias of the settings has an invalid name.
        StoreError: the database can't be read.
    """

    def __init__(
        self,
        registry: ModelAliasRegistry,
        resolver: AdapterResolver,
        configured: Mapping[str, str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry, self._resolver, self._now = registry, resolver, now
        self._configured = [
            ModelAlias(parse_adapter_name(name), target, now(), None) for name, target in configured.items()
        ]
        self._aliases: dict[str, ModelAlias] = {}
        self._lock = asyncio.Lock()
        self._apply(registry.all())

    def all(self) -> list[ModelAlias]:
        """Return all aliases, sorted by name."""
        return [self._aliases[name] for name in sorted(self._aliases)]

    def get(self, name: str) -> ModelAlias | None:
        """Return the alias of this name, None if there is none."""
        return self._aliases.get(name)

    async def set(self, name: AdapterName, target: str, *, actor: str) -> ModelAlias:
        """Make `name` an alias of `target`, on all servers that share the database.

        Raises:
            AliasConflict: the name is in use for something else, or the target is an alias itself.
            AliasTargetMissing: this server does not have the target.
        """
        self.check_name(name)
        self._check_target(target)
        by = ChangedBy(actor, self._now())
        async with self._lock:
            stored = await asyncio.to_thread(self._registry.set, name, target, by)
            self._apply(await asyncio.to_thread(self._registry.all))
        return stored

    async def remove(self, name: AdapterName, *, actor: str) -> ModelAlias:
        """Remove an alias and return it; its target stays.

        Raises:
            AliasNotFound: there is none of this name.
            AliasConflict: the settings define it.
        """
        self._check_not_configured(name)
        by = ChangedBy(actor, self._now())
        async with self._lock:
            removed = await asyncio.to_thread(self._registry.remove, name, by)
            self._apply(await asyncio.to_thread(self._registry.all))
        return removed

    def check_name(self, name: AdapterName) -> None:
        """Check that `set` accepts a name.

        Raises:
            AliasConflict: the name is in use for something else.
        """
        self._check_not_configured(name)
        if self._resolver.is_served(name):
            raise AliasConflict(f"{name} is the name of a model itself: choose another alias.")

    def unused(self) -> list[str]:
        """Return a sentence for each alias of the settings that has no effect at present."""
        return [
            f"the alias {alias.name!r} of the settings is not used: a model has this name"
            if self._resolver.is_served(alias.name)
            else f"the alias {alias.name!r} points at {alias.target!r}, which is not served yet"
            for alias in self._configured
            if self._resolver.is_served(alias.name) or not self._resolver.is_served(alias.target)
        ]

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow changes by other servers while the context is active."""
        async with running_task(self._refresh_periodically()):
            yield

    async def refresh(self) -> None:
        """Read the aliases from the database.

        Raises:
            StoreError: the database can't be read; the old ones stay.
        """
        async with self._lock:  # else an older reading could replace a newer one
            self._apply(await asyncio.to_thread(self._registry.all))

    async def _refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except StoreError as error:
                logger.warning("%s The old model aliases stay.", error)

    def _apply(self, stored: list[ModelAlias]) -> None:
        self._aliases = {alias.name: alias for alias in [*stored, *self._configured]}
        self._resolver.set_aliases({name: alias.target for name, alias in self._aliases.items()})

    def _check_not_configured(self, name: AdapterName) -> None:
        if any(alias.name == name for alias in self._configured):
            raise AliasConflict(f"The settings of this server define the alias {name} (`aliases`): change it there.")

    def _check_target(self, target: str) -> None:
        own = self._resolver.own_name(target)
        if own != target:
            raise AliasConflict(f"{target[:200]} is an alias itself: use its target, {own}.")
        if not self._resolver.is_served(target):
            raise AliasTargetMissing(
                f"The model `{target[:200]}` does not exist; expected the base, an adapter or NAME@DIGEST.", "target"
            )
