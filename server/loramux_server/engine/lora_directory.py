"""The Mapping in which vLLM's OpenAI handlers look a request's `model` up."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Protocol

from vllm.lora.request import LoRARequest

from loramux_adapters.errors import AdapterError, VersionNotFound
from loramux_adapters.models import VersionId
from loramux_server.errors import from_adapter_error
from loramux_server.request_context import RequestContext, current_request


class Catalogue(Protocol):
    """What names mean now; answers from memory."""

    def resolve(self, name: str, sticky: str | None) -> VersionId | None:
        """The version that a request for `name` (an alias or NAME@DIGEST) runs on; raises AdapterError."""

    def path(self, version: VersionId) -> Path:
        """The folder of its weights."""


class LoraRequests:
    """The name, number and path under which the engine knows each version.

    vLLM hashes its prefix cache by the name and finds an adapter in memory by the number, so both belong to one
    immutable version for the life of the process.
    """

    def __init__(self, catalogue: Catalogue, base_name: str) -> None:
        self._catalogue = catalogue
        self._base_name = base_name
        self._numbers = count(1)
        self._known: dict[VersionId, LoRARequest] = {}
        self._versions: dict[int, VersionId] = {}

    def of(self, version: VersionId) -> LoRARequest:
        """The engine's handle on `version`, the same one every time."""
        known = self._known.get(version)
        if known is None:
            path = self._path(version)
            known = LoRARequest(str(version), next(self._numbers), path, base_model_name=self._base_name)
            self._known[version] = known
            self._versions[known.lora_int_id] = version
        return known

    def named(self, numbers: Iterable[int]) -> set[VersionId]:
        """The versions that the engine knows by these numbers."""
        return {self._versions[number] for number in numbers if number in self._versions}

    def _path(self, version: VersionId) -> str:
        try:
            return str(self._catalogue.path(version))
        except KeyError:
            raise VersionNotFound(f"{version} was removed meanwhile.") from None


class AdapterDirectory(Mapping[str, LoRARequest]):
    """Resolves a request's `model` to one version, once a request.

    vLLM asks twice (`in`, then `[]`), and the alias may move in between: the first answer is kept with the request.
    Iterating yields nothing, because vLLM walks over all values at every chat request on the base to look for adapters
    of modalities, which loramux does not have; our own `/v1/models` lists the adapters.
    """

    def __init__(self, catalogue: Catalogue, requests: LoraRequests) -> None:
        self._catalogue = catalogue
        self._requests = requests

    def __getitem__(self, name: str) -> LoRARequest:
        request = current_request.get()
        version = request.versions.get(name) or self._resolve(name, request)
        request.versions[name] = version
        return self._requests.of(version)

    def _resolve(self, name: str, request: RequestContext) -> VersionId:
        """What `name` means for this request; why it means nothing stays with the request, for vLLM knows only 404."""
        try:
            version = self._catalogue.resolve(name, request.sticky)
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
