"""Adding and removing adapters: loramux's `/admin/adapters`, and stock vLLM's routes for loading LoRA adapters."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import aiohttp


class ApiResponse(NamedTuple):
    """The HTTP status (0 without a response) and the error message of a response."""

    status: int
    message: str

    @property
    def accepted(self) -> bool:
        """Whether the server accepted the request."""
        return 200 <= self.status < 300


class AdapterApi(Protocol):
    """Operations on a server's adapters; failures are responses, not exceptions."""

    async def add(self, name: str, path: str) -> ApiResponse:
        """Add the adapter in a folder."""

    async def replace(self, name: str, path: str) -> ApiResponse:
        """Replace an existing adapter by the one in a folder."""

    async def remove(self, name: str) -> ApiResponse:
        """Remove an adapter."""

    async def pin(self, name: str, *, pinned: bool) -> ApiResponse | None:
        """Pin an adapter in the engine, or unpin it; None if the server has no pins."""


@dataclass(frozen=True)
class LoramuxAdapterApi:
    """`/admin/adapters`."""

    session: aiohttp.ClientSession

    async def add(self, name: str, path: str) -> ApiResponse:
        """Add an adapter or a new version of one, and point its name at it."""
        body = {"name": name, "source": {"type": "folder", "path": path}}
        return await _request(self.session, "POST", "/admin/adapters", body)

    replace = add

    async def remove(self, name: str) -> ApiResponse:
        """Remove the adapter with all its versions."""
        return await _request(self.session, "DELETE", f"/admin/adapters/{quote(name, safe='')}")

    async def pin(self, name: str, *, pinned: bool) -> ApiResponse | None:
        """Pin or unpin the adapter."""
        return await _request(self.session, "PUT", f"/admin/adapters/{quote(name, safe='')}/pin", {"pinned": pinned})


@dataclass(frozen=True)
class StockAdapterApi:
    """The routes that VLLM_ALLOW_RUNTIME_LORA_UPDATING enables."""

    session: aiohttp.ClientSession

    async def add(self, name: str, path: str) -> ApiResponse:
        """Load an adapter."""
        return await _request(self.session, "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def replace(self, name: str, path: str) -> ApiResponse:
        """Load the adapter in place of the loaded one."""
        body = {"lora_name": name, "lora_path": path, "load_inplace": True}
        return await _request(self.session, "POST", "/v1/load_lora_adapter", body)

    async def remove(self, name: str) -> ApiResponse:
        """Unload an adapter."""
        return await _request(self.session, "POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def pin(self, name: str, *, pinned: bool) -> ApiResponse | None:  # noqa: ARG002
        """Return None: there is no such route."""
        return None


async def _request(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> ApiResponse:
    try:
        async with session.request(method, path, json=body) as response:
            text = await response.text()
    except TimeoutError:
        return ApiResponse(0, "timeout")
    except (aiohttp.ClientError, OSError) as error:
        return ApiResponse(0, type(error).__name__)
    return ApiResponse(response.status, _error_message(text))


def _error_message(text: str) -> str:
    """Return the message of an OpenAI error, or the text itself if it is none."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return text
