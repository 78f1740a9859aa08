"""Keeps projects apart inside vLLM: stored responses, and the prefix cache."""

from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

from loramux_adapters.models import DEFAULT_PROJECT
from loramux_server.auth import Principal
from loramux_server.request_context import current_request

Value = TypeVar("Value")
_SERVER = ""
"""Stands for the project of the server's own requests, such as those of an evaluation."""
_SEPARATOR = "\n"
"""Between project and salt; no project's name has it."""


class ProjectStore(MutableMapping[str, Value]):
    """A store by id in which each request finds what its own project has stored, and nothing else."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Value] = {}

    def __getitem__(self, key: str) -> Value:
        return self._values[_project(), key]

    def __setitem__(self, key: str, value: Value) -> None:
        self._values[_project(), key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[_project(), key]

    def __iter__(self) -> Iterator[str]:
        return (key for project, key in self._values if project == _project())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def isolate_stored_responses(responses: Any) -> None:
    """Have vLLM's handler of /v1/responses find a previous response only for the project that stored it."""
    responses.response_store, responses.msg_store = ProjectStore(), ProjectStore()


def salted(prompt: Any, caller: Principal | None) -> Any:
    """Return a prompt of the engine with a cache salt that no other project can have.

    vLLM shares cached prefixes between prompts of equal salts, and a quick answer tells that a prompt was cached. The
    default project has a salt only where a client gives one, so that a server with one project works as before.
    """
    if not isinstance(prompt, dict):
        return prompt
    project, salt = _SERVER if caller is None else caller.project, prompt.get("cache_salt")
    if project == DEFAULT_PROJECT and not salt:
        return prompt
    return {**prompt, "cache_salt": f"{project}{_SEPARATOR}{salt or ''}"}


def _project() -> str:
    caller = current_request.get().principal
    return _SERVER if caller is None else caller.project
