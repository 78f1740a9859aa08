"""A real server of a base and adapters, and its answers to fixed prompts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from loramux_server.settings import Settings
from tests.conftest import REPOSITORY
from tests.helpers.logprobs import ScoredTokens, complete
from tests.helpers.server_process import LORAMUX, serving

PROMPTS = (range(20, 44), range(200, 120, -3))
"""Token ids; more of them than the windows of the tiny bases have."""
ANSWER_TOKENS = 24
ENGINE = {"kv_cache_memory_bytes": 64 << 20, "max_model_len": 512, "max_loras": 8, "max_cpu_loras": 8}
"""Settings of the engine: room for all adapters in one batch."""


@contextmanager
def served(base: Path, adapters: Mapping[str, Path], settings: Settings) -> Iterator[str]:
    """Serve a base and adapters, whose folders are next to it or below, with the data folder and engine of `settings`.

    Yields the server's URL.
    """
    options = {f"LORAMUX_ENGINE__{name.upper()}": _text(value) for name, value in settings.engine.items()}
    options["LORAMUX_ADAPTERS"] = json.dumps({name: str(path) for name, path in adapters.items()})
    options["LORAMUX_ALLOWED_ROOTS"] = json.dumps([str(base.parent)])
    with serving([LORAMUX, "serve", "--base", str(base)], settings.data_dir, REPOSITORY, **options) as started:
        yield started.wait_until_serving()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def ask(url: str, routes: Sequence[str]) -> dict[str, list[ScoredTokens]]:
    """Ask each route each prompt, all at the same time."""
    with ThreadPoolExecutor(len(routes) * len(PROMPTS)) as pool:
        futures = {
            route: [pool.submit(complete, url, route, prompt, ANSWER_TOKENS) for prompt in PROMPTS] for route in routes
        }
        return {route: [future.result() for future in started] for route, started in futures.items()}
