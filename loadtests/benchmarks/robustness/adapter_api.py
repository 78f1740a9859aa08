"""How each server is given adapters: loramux through its administration, stock vLLM through its loading routes."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import aiohttp


class Answer(NamedTuple):
    """What a server said: HTTP's status, 0 if nothing came, and its words if it refused."""

    status: int
    said: str

    @property
    def accepted(self) -> bool:
        """Whether the server did what it was asked for."""
        return 200 <= self.status < 300


class Door(Protocol):
    """A server's way of taking adapters; nothing here raises for what the server does."""

    async def offer(self, name: str, path: str) -> Answer:
        """Give it the adapter in a folder."""

    async def renew(self, name: str, path: str) -> Answer:
        """Give it the adapter in a folder under a name that it has already."""

    async def withdraw(self, name: str) -> Answer:
        """Let it forget an adapter."""

    async def pin(self, name: str, *, pinned: bool) -> Answer | None:
        """Let it keep an adapter where it is used fastest, or let it go; None if it has no such thing."""


@dataclass(frozen=True)
class LoramuxDoor:
    """`/admin/adapters`."""

    session: aiohttp.ClientSession

    async def offer(self, name: str, path: str) -> Answer:
        """Add an adapter, or a new version of one, and lead its name there."""
        body = {"name": name, "source": {"type": "folder", "path": path}}
        return await _ask(self.session, "POST", "/admin/adapters", body)

    renew = offer

    async def withdraw(self, name: str) -> Answer:
        """Remove the adapter with all its versions."""
        return await _ask(self.session, "DELETE", f"/admin/adapters/{quote(name, safe='')}")

    async def pin(self, name: str, *, pinned: bool) -> Answer | None:
        """Pin or unpin the adapter."""
        return await _ask(self.session, "PUT", f"/admin/adapters/{quote(name, safe='')}/pin", {"pinned": pinned})


@dataclass(frozen=True)
class StockDoor:
    """The routes that VLLM_ALLOW_RUNTIME_LORA_UPDATING opens."""

    session: aiohttp.ClientSession

    async def offer(self, name: str, path: str) -> Answer:
        """Load an adapter."""
        return await _ask(self.session, "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def renew(self, name: str, path: str) -> Answer:
        """Load it over the one that is there."""
        body = {"lora_name": name, "lora_path": path, "load_inplace": True}
        return await _ask(self.session, "POST", "/v1/load_lora_adapter", body)

    async def withdraw(self, name: str) -> Answer:
        """Unload it."""
        return await _ask(self.session, "POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def pin(self, name: str, *, pinned: bool) -> Answer | None:  # noqa: ARG002
        """There is no route for it."""
        return None


async def _ask(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Answer:
    try:
        async with session.request(method, path, json=body) as response:
            text = await response.text()
    except TimeoutError:
        return Answer(0, "no answer in time")
    except (aiohttp.ClientError, OSError) as error:
        return Answer(0, type(error).__name__)
    return Answer(response.status, _message(text))


def _message(text: str) -> str:
    """OpenAI's error message, or what came instead of it."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return text
