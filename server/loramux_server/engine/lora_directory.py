"""The mapping from model names to LoRA requests for vLLM's OpenAI handlers."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Protocol

from vllm.lora.request import LoRARequest

from loramux_adapters.errors import AdapterError, VersionNotFound
from loramux_adapters.models import VersionId
from loramux_server.errors import from_adapter_error
from loramux_server.request_context import RequestContext, current_request


class NameResolver(Protocol):
    """Resolves names to versions, from memory."""

    def resolve(self, name: str, split_key: str | None) -> VersionId | None:
        """Return the version for `name` (NAME, NAME@DIGEST or an alias), None for the base and for an unknown name.

        Raises:
            AdapterError: the version can't be served.
        """

    def path(self, version: VersionId) -> Path:
        """Return the folder of the version's weights."""


class LoraRequests:
    """The LoRARequest (name, id and path) of each version.

    vLLM hashes its prefix cache by the name and looks up adapters by the id, so both belong to one immutable version
    for the lifetime of the process.
    """

    def __init__(self, resolver: NameResolver, base_name: str) -> None:
        self._resolver = resolver
        self._base_name = base_name
        self._next_id = count(1)
        self._requests: dict[VersionId, LoRARequest] = {}
        self._versions: dict[int, VersionId] = {}

    def of(self, version: VersionId) -> LoRARequest:
        """Return the LoRARequest of `version`, the same object every time.

        Raises:
            VersionNotFound: the version was removed.
        """
        lora_request = self._requests.get(version)
        if lora_request is None:
            path = self._path(version)
            lora_request = LoRARequest(str(version), next(self._next_id), path, base_model_name=self._base_name)
            self._requests[version] = lora_request
            self._versions[lora_request.lora_int_id] = version
        return lora_request

    def versions(self, lora_int_ids: Iterable[int]) -> set[VersionId]:
        """Return the versions with these ids."""
        return {self._versions[number] for number in lora_int_ids if number in self._versions}

    def _path(self, version: VersionId) -> str:
        try:
            return str(self._resolver.path(version))
        except KeyError:
            raise VersionNotFound(f"{version} was removed.") from None


class AdapterDirectory(Mapping[str, LoRARequest]):
    """Resolves the `model` of a request to a version, once per request.

    vLLM looks a name up twice (`in`, then `[]`), and the alias may move in between, so the first result is kept in the
    request context. Iteration yields nothing: at each chat request on the base, vLLM iterates over all values to find
    adapters of modalities, which loramux does not have. Our own `/v1/models` lists the adapters.
    """

    def __init__(self, resolver: NameResolver, requests: LoraRequests) -> None:
        self._resolver = resolver
        self._requests = requests

    def __getitem__(self, name: str) -> LoRARequest:
        if not name:  # vLLM asks for the name of requests without one, too
            raise KeyError(name)
        request = current_request.get()
        version = request.versions.get(name) or self._resolve(name, request)
        request.versions[name] = version
        return self._requests.of(version)

    def _resolve(self, name: str, request: RequestContext) -> VersionId:
        """Resolve `name`; keep an error in the request context, because vLLM turns a KeyError into a plain 404."""
        try:
            version = self._resolver.resolve(name, request.split_key)
        except AdapterError as error:
            request.refusal = from_adapter_error(error)
            version = None
        if version is None:
            raise KeyError(name)
        return version

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
