"""Which models a caller may use: those of its project, or those that its key names."""

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import Protocol

from fastapi import Request

from loramux_server.auth import Principal
from loramux_server.errors import ModelNotFound
from loramux_server.middleware.end_user import record_end_user
from loramux_server.request_context import current_request


class OwnedModels(Protocol):
    """The names of the served models, and their owners."""

    def own_name(self, model: str) -> str:
        """Return the target of an alias, or `model` itself."""

    def project_of(self, name: str) -> str | None:
        """Return the project of the adapter of this bare name; None if there is none."""


class ModelAccess:
    """The rules of who may use which model. A model that a caller may not use does not exist for it.

    Administrators may use all. A key without `models` may use the base and the adapters of its project. One with
    `models` may use what a pattern of them matches among these, and also the models of other projects that are written
    out there: only an administrator makes keys.
    """

    def __init__(self, models: OwnedModels, base_name: str) -> None:
        self._models, self._base = models, base_name

    def may_use(self, caller: Principal | None, model: str) -> bool:
        """Whether a caller, None for the server itself, may use a model: the base, NAME, NAME@DIGEST or an alias.

        An empty name means the base, as in vLLM. Never true for a model that does not exist, but maybe for a version
        that does not exist of an adapter that the caller may use.
        """
        if caller is None or caller.admin:
            return True
        model = model or self._base
        own = self._models.own_name(model)
        adapter = own.partition("@")[0]
        project = caller.project if adapter == self._base else self._models.project_of(adapter)
        if project is None:
            return False
        is_of_project = project == caller.project
        names = {model, model.partition("@")[0], own, adapter}
        return is_of_project if caller.models is None else _are_allowed(names, caller.models, patterns=is_of_project)

    def owns(self, caller: Principal, model: str) -> bool:
        """Whether a caller may change or remove a model: an adapter or version of its project, by its own name."""
        if caller.admin:
            return True
        is_its_projects = self._models.project_of(model.partition("@")[0]) == caller.project
        return is_its_projects and self.may_use(caller, model)


def _are_allowed(names: set[str], models: tuple[str, ...], *, patterns: bool) -> bool:
    """Whether one of the names is written out in `models`, or matched by a pattern there if `patterns` count."""
    if not names.isdisjoint(models):
        return True
    return patterns and any(fnmatchcase(name, pattern) for name in names for pattern in models)


def read_usable_model(access: ModelAccess) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency of vLLM's handlers that reads the body's fields, and refuses models of others.

    They are refused as if they did not exist, before anything depends on the model.
    """

    async def read(request: Request) -> None:
        await record_end_user(request)
        context = current_request.get()
        model = context.model or ""
        if not access.may_use(context.principal, model):
            raise ModelNotFound(model)

    return read


def is_own_alias(caller: Principal, name: str) -> bool:
    """Whether a caller may have an alias of this name: one of a project begins with `PROJECT/`.

    So no project learns from a conflict which names another one has.
    """
    return caller.admin or name.startswith(f"{caller.project}/")
