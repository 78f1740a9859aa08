"""`loramux calibrate`: measure the cost of an output token relative to an input token on this machine."""

import asyncio
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import httpx
import typer
from rich.progress import track

from loramux_server.cli.api_client import DEFAULT_URL, TIMEOUT_SECONDS, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import column_table, fail, print_result, stderr, stdout

SHORT_PROMPT, LONG_ANSWER = 8, 64
"""Tokens of a request that is almost entirely decoding."""


@dataclass(frozen=True)
class ConcurrentRequests:
    """Rounds of `streams` concurrent requests."""

    url: str
    headers: dict[str, str]
    model: str
    streams: int

    async def seconds(self, prompt: int, output: int) -> float:
        """Return how long a round takes, with new prompts of `prompt` tokens and answers of `output` tokens."""
        async with httpx.AsyncClient(headers=self.headers, timeout=TIMEOUT_SECONDS) as client:
            started = time.monotonic()
            await asyncio.gather(*(self._ask(client, prompt, output) for _ in range(self.streams)))
            return time.monotonic() - started

    async def _ask(self, client: httpx.AsyncClient, prompt: int, output: int) -> None:
        tokens = [random.randrange(1000, 10_000) for _ in range(prompt)]  # noqa: S311 - different prefixes, so that none is cached
        body = {
            "model": self.model,
            "prompt": tokens,
            "max_tokens": output,
            "ignore_eos": True,
        }
        response = await client.post(f"{self.url}/v1/completions", json=body)
        response.raise_for_status()


def calibrate(
    streams: Annotated[int, typer.Option(min=1, help="Concurrent requests: as many as you usually have.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=32, help="The length of a long prompt.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured; the median is used.")] = 3,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Measure the weight of an output token relative to an input token, used to split the engine's time by request.

    The server measures this by itself when it is idle, with 4 concurrent requests; this command does so with as many as
    you usually have. Run it while the server is idle. It requests one token after long prompts, and long answers to
    short prompts, from the base, and compares the time per token. Its requests are in the usage ledger.
    """
    client = ApiClient(url, api_key)
    model = client.call("GET", "/v1/models")["data"][0]["id"]
    requests = ConcurrentRequests(
        url.rstrip("/"), {"authorization": f"Bearer {api_key}"} if api_key else {}, model, streams
    )
    try:
        prefills, decodes = asyncio.run(_measure(requests, prompt_tokens, rounds))
    except httpx.HTTPError as error:
        fail(f"the measurement failed: {error}")
    if min(*prefills, *decodes) <= 0:
        fail("long requests were not slower than short ones: set a larger --prompt-tokens")
    prefill, decode = median(prefills), median(decodes)
    print_result(
        {
            "prefill_seconds_per_token": prefill,
            "decode_seconds_per_token": decode,
            "decode_weight": round(decode / prefill, 2),
            "lowest": round(min(decodes) / max(prefills), 2),
            "highest": round(max(decodes) / min(prefills), 2),
        },
        _print_weights,
        as_json=as_json,
    )


async def _measure(requests: ConcurrentRequests, prompt_tokens: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the engine's seconds per input token and per output token, one of each per round."""
    await requests.seconds(SHORT_PROMPT, 2)  # the very first request is slow
    prefills, decodes = [], []
    for _ in track(range(rounds), "measuring", console=stderr, transient=True):
        first = await requests.seconds(SHORT_PROMPT, 1)
        prefills.append(
            (await requests.seconds(prompt_tokens, 1) - first) / (prompt_tokens - SHORT_PROMPT) / requests.streams
        )
        decodes.append(
            (await requests.seconds(SHORT_PROMPT, LONG_ANSWER) - first) / (LONG_ANSWER - 1) / requests.streams
        )
    return prefills, decodes


def _print_weights(weights: dict[str, Any]) -> None:
    table = column_table("token", "engine time (ms)")
    table.add_row("input", f"{weights['prefill_seconds_per_token'] * 1000:.3f}")
    table.add_row("output", f"{weights['decode_seconds_per_token'] * 1000:.3f}")
    stdout.print(table)
    stdout.print(f"an output token weighs {weights['decode_weight']} input tokens{_spread(weights)}; use it by")
    stdout.print(f"loramux prices set decode_weight={weights['decode_weight']}", soft_wrap=True)


def _spread(weights: dict[str, Any]) -> str:
    """The extremes of the rounds, which are no confidence interval; a single round has none."""
    low, high = weights["lowest"], weights["highest"]
    return "" if low == high else f" (between {low} and {high} in every pair of rounds)"
