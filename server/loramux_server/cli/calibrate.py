"""`loramux calibrate`: how much dearer an output token is than an input token, on this machine."""

import asyncio
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import httpx
import typer
from rich.progress import track

from loramux_server.cli.adapter_names import shown
from loramux_server.cli.adapter_tables import headed, out
from loramux_server.cli.api_client import DEFAULT_URL, SECONDS, ApiKey, AsJson, Server, Url, ended, words

SHORT_PROMPT, LONG_ANSWER = 8, 64
"""Tokens of a request that is nearly all decoding."""


@dataclass(frozen=True)
class Load:
    """Requests of one kind, `streams` at a time."""

    url: str
    headers: dict[str, str]
    model: str
    streams: int

    async def seconds(self, prompt: int, output: int) -> float:
        """How long one round of all streams takes, with fresh prompts of so many tokens."""
        async with httpx.AsyncClient(headers=self.headers, timeout=SECONDS) as client:
            started = time.monotonic()
            await asyncio.gather(*(self._ask(client, prompt, output) for _ in range(self.streams)))
            return time.monotonic() - started

    async def _ask(self, client: httpx.AsyncClient, prompt: int, output: int) -> None:
        tokens = [random.randrange(1000, 10_000) for _ in range(prompt)]  # noqa: S311 - no two begin alike
        body = {
            "model": self.model,
            "prompt": tokens,
            "max_tokens": output,
            "ignore_eos": True,
        }
        response = await client.post(f"{self.url}/v1/completions", json=body)
        response.raise_for_status()


def calibrate(
    streams: Annotated[int, typer.Option(min=1, help="Requests at a time: as many as you usually have.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=32, help="The length of a long prompt.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median counts.")] = 3,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Measure what an output token weighs against an input token, by which the engine's time is split among requests.

    Run it while the server is idle. It asks the base for one token after long prompts, and for long answers to short
    ones, and compares what a token of each takes.
    """
    server = Server(url, api_key)
    model = server.call("GET", "/v1/models")["data"][0]["id"]
    load = Load(url.rstrip("/"), {"authorization": f"Bearer {api_key}"} if api_key else {}, model, streams)
    try:
        prefills, decodes = asyncio.run(_measure(load, prompt_tokens, rounds))
    except httpx.HTTPError as error:
        raise ended(f"the server could not be measured: {error}") from error
    if min(*prefills, *decodes) <= 0:
        raise ended("long requests were no slower than short ones, so nothing can be said: try longer prompts")
    prefill, decode = median(prefills), median(decodes)
    shown(
        {
            "prefill_seconds_per_token": prefill,
            "decode_seconds_per_token": decode,
            "decode_weight": round(decode / prefill, 2),
            "lowest": round(min(decodes) / max(prefills), 2),
            "highest": round(max(decodes) / min(prefills), 2),
        },
        _print,
        as_json=as_json,
    )


async def _measure(load: Load, prompt_tokens: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the engine for an input token and for an output token, of each round."""
    await load.seconds(SHORT_PROMPT, 2)  # the first one of all is slow
    prefills, decodes = [], []
    for _ in track(range(rounds), "measuring", console=words, transient=True):
        first = await load.seconds(SHORT_PROMPT, 1)
        prefills.append((await load.seconds(prompt_tokens, 1) - first) / (prompt_tokens - SHORT_PROMPT) / load.streams)
        decodes.append((await load.seconds(SHORT_PROMPT, LONG_ANSWER) - first) / (LONG_ANSWER - 1) / load.streams)
    return prefills, decodes


def _print(found: dict[str, Any]) -> None:
    table = headed("a token of", "ms of the engine")
    table.add_row("input", f"{found['prefill_seconds_per_token'] * 1000:.3f}")
    table.add_row("output", f"{found['decode_seconds_per_token'] * 1000:.3f}")
    out.print(table)
    out.print(
        f"an output token weighs {found['decode_weight']} input tokens [{found['lowest']}, {found['highest']}]; set"
    )
    out.print(f"LORAMUX_PRICES__DECODE_WEIGHT={found['decode_weight']}")
