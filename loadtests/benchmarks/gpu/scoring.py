"""Asks a server for the log-probabilities of prompts, and compares them with those of a reference."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import aiohttp

Prompts = Sequence[Sequence[int]]
Logprobs = list[list[float]]
"""Of each prompt's tokens from the second on."""
Generated = tuple[list[int], list[float]]
"""Token ids, and their log-probabilities."""
MAX_REASON = 200


@dataclass(frozen=True)
class Refused:
    """The error of a request that was not answered."""

    status: int
    """0 without a response."""
    reason: str


class ScoringClient:
    """A client of one server that runs here."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def score(self, model: str, prompts: Prompts) -> Logprobs | Refused:
        """Return the log-probabilities of all prompts, asked for at the same time; the first error if there is one."""
        async with aiohttp.ClientSession(self._url) as session:
            found = await asyncio.gather(*(self._score(session, model, prompt) for prompt in prompts))
        refused = [each for each in found if isinstance(each, Refused)]
        return refused[0] if refused else [each for each in found if not isinstance(each, Refused)]

    async def _score(self, session: aiohttp.ClientSession, model: str, prompt: Sequence[int]) -> list[float] | Refused:
        body = {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = await _post(session, body)
        return answer if isinstance(answer, Refused) else read_logprobs(answer, prompt)

    async def generate(self, model: str, prompt: Sequence[int], tokens: int) -> Generated | Refused:
        """Return the ids and log-probabilities of `tokens` generated tokens."""
        body = {
            "model": model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0.0, "logprobs": 0,
            "ignore_eos": True, "return_token_ids": True,
        }  # fmt: skip
        async with aiohttp.ClientSession(self._url) as session:
            answer = await _post(session, body)
        if isinstance(answer, Refused):
            return answer
        [choice] = answer["choices"]
        return choice["token_ids"], [_number(each) for each in choice["logprobs"]["token_logprobs"]]

    async def first_tokens(self, model: str, prompts: Prompts) -> list[float]:
        """Return the log-probability of the first token of each prompt's answer; NaN where there is none."""
        found = await asyncio.gather(*(self.generate(model, prompt, 1) for prompt in prompts))
        return [math.nan if isinstance(each, Refused) else each[1][0] for each in found]

    async def max_context(self, model: str) -> int:
        """Return the largest number of tokens that the server allows; 0 if it does not say."""
        async with aiohttp.ClientSession(self._url) as session:
            answer = await _post(session, {"model": model, "prompt": "a"}, "/tokenize")
        return 0 if isinstance(answer, Refused) else int(answer.get("max_model_len") or 0)


async def _post(
    session: aiohttp.ClientSession, body: Mapping[str, Any], path: str = "/v1/completions"
) -> dict[str, Any] | Refused:
    """Return the answer; a stock vLLM that computed NaN ends the connection without one."""
    try:
        async with session.post(path, json=body) as response:
            if response.status != 200:
                return Refused(response.status, (await response.text())[:MAX_REASON])
            answer: dict[str, Any] = await response.json()
            return answer
    except (aiohttp.ClientError, ValueError) as error:
        return Refused(0, str(error)[:MAX_REASON])


def read_logprobs(answer: Mapping[str, Any], prompt: Sequence[int]) -> list[float]:
    """Return the log-probability of each token of a prompt from the second on; NaN where the answer has none."""
    [choice] = answer["choices"]
    of_positions = choice["prompt_logprobs"][1:]
    return [
        _number((each or {}).get(str(token), {}).get("logprob"))
        for token, each in zip(prompt[1:], of_positions, strict=True)
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def difference(left: Iterable[Sequence[float]], right: Iterable[Sequence[float]]) -> float:
    """Return the mean absolute difference of log-probabilities, in nats; NaN if one is."""
    return fmean(
        abs(a - b) for ours, theirs in zip(left, right, strict=True) for a, b in zip(ours, theirs, strict=True)
    )
