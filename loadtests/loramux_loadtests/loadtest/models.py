"""Which model of a server each route is."""

import difflib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import aiohttp

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.mix import BASE

NAMED_AT_MOST = 5
LOOKS_WITHIN = aiohttp.ClientTimeout(total=60, sock_connect=10)


async def models_of(url: str, routes: Sequence[str], base: str | None, api_key: str | None) -> dict[str, str]:
    """The model's name for each route; `base` is what the base is called, if the server's list does not tell.

    LoadTestError if the server can't be reached, or has not got one of the models.
    """
    root = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=LOOKS_WITHIN) as session:
            served = await _served(session, root)
            names = {route: _base(served, base) if route == BASE else route for route in routes}
            known = {str(model["id"]) for model in served}
            missing = [name for name in names.values() if name not in known and not await _is(session, root, name)]
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise LoadTestError(f"no server answers at {url}: {error or 'no answer in time'}") from error
    if missing:
        raise LoadTestError(_unknown(url, missing, sorted(known)))
    return names


async def _served(session: aiohttp.ClientSession, root: str) -> list[dict[str, Any]]:
    async with session.get(f"{root}/v1/models", allow_redirects=False) as response:
        if response.status != 200:
            reason = (await response.text(errors="replace"))[:200]
            raise LoadTestError(f"{root}/v1/models answers {response.status}: {reason}")
        body = await response.json(content_type=None)
    models = body.get("data") if isinstance(body, dict) else None
    if not isinstance(models, list) or not all(isinstance(model, dict) and "id" in model for model in models):
        raise LoadTestError(f"{root}/v1/models does not list models: is this an OpenAI-compatible server?")
    return models


async def _is(session: aiohttp.ClientSession, root: str, name: str) -> bool:
    """Whether a model that is not in the list can be asked for: one version of an adapter, for example."""
    async with session.get(f"{root}/v1/models/{quote(name)}", allow_redirects=False) as response:
        return response.status == 200


def _base(served: Sequence[dict[str, Any]], base: str | None) -> str:
    roots = [str(model["id"]) for model in served if not model.get("parent")]
    if base is None and not roots:
        raise LoadTestError("the server lists no base model: name it with --base")
    return base or roots[0]


def _unknown(url: str, missing: Sequence[str], known: Sequence[str]) -> str:
    near = [name for wrong in missing[:NAMED_AT_MOST] for name in difflib.get_close_matches(wrong, known, n=2)]
    shown = near or known[:NAMED_AT_MOST]
    more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
    return f"{url} has no route {', '.join(missing[:NAMED_AT_MOST])}{more}; it has, among others, {', '.join(shown)}"
