"""Model names for the routes of a scenario, from a server's list of models."""

import difflib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import aiohttp

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.mix import BASE

MAX_LISTED = 5
LOOKUP_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)


async def resolve_models(url: str, routes: Sequence[str], base: str | None, api_key: str | None) -> dict[str, str]:
    """Return the model name for each route. `base` names the base model if the server's list does not identify it.

    Raises:
        LoadTestError: the server can't be reached, or lacks one of the models.
    """
    root = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=LOOKUP_TIMEOUT) as session:
            served = await _list_models(session, root)
            names = {route: _base_model(served, base) if route == BASE else route for route in routes}
            known = {str(model["id"]) for model in served}
            missing = [
                name for name in names.values() if name not in known and not await _model_exists(session, root, name)
            ]
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise LoadTestError(f"no server answers at {url}: {error or 'timeout'}") from error
    if missing:
        raise LoadTestError(_unknown_routes(url, missing, sorted(known)))
    return names


async def _list_models(session: aiohttp.ClientSession, root: str) -> list[dict[str, Any]]:
    async with session.get(f"{root}/v1/models", allow_redirects=False) as response:
        if response.status != 200:
            reason = (await response.text(errors="replace"))[:200]
            raise LoadTestError(f"{root}/v1/models answers {response.status}: {reason}")
        body = await response.json(content_type=None)
    models = body.get("data") if isinstance(body, dict) else None
    if not isinstance(models, list) or not all(isinstance(model, dict) and "id" in model for model in models):
        raise LoadTestError(f"{root}/v1/models does not list models: is this an OpenAI-compatible server?")
    return models


async def _model_exists(session: aiohttp.ClientSession, root: str, name: str) -> bool:
    """Whether the server has a model that it does not list, such as one version of an adapter."""
    async with session.get(f"{root}/v1/models/{quote(name)}", allow_redirects=False) as response:
        return response.status == 200


def _base_model(served: Sequence[dict[str, Any]], base: str | None) -> str:
    roots = [str(model["id"]) for model in served if not model.get("parent")]
    if base is None and not roots:
        raise LoadTestError("the server lists no base model: set its name with --base")
    return base or roots[0]


def _unknown_routes(url: str, missing: Sequence[str], known: Sequence[str]) -> str:
    near = [name for wrong in missing[:MAX_LISTED] for name in difflib.get_close_matches(wrong, known, n=2)]
    shown = near or known[:MAX_LISTED]
    more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
    return f"{url} has no model {', '.join(missing[:MAX_LISTED])}{more}; it has, for example, {', '.join(shown)}"
