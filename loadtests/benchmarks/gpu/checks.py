"""The correctness part of the GPU benchmark: checks of a running server, with results instead of exceptions."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gpu.checked_base import NAN
from benchmarks.gpu.expected import BASE, Reference
from benchmarks.gpu.scoring import Generated, Logprobs, Prompts, Refused, ScoringClient, difference

STREAM_TOKENS = 256
STREAM_LEAD_SECONDS = 0.1
"""How long the first stream has run when the first adapter is loaded."""
ISOLATION = "an adapter that computes NaN harms nobody"
NAN_ROUNDS = 4
CONTROL_TOLERANCE = 0.1
"""Nats, of the first token; much more than rounding in bfloat16 makes of it."""
QUARANTINED = "adapter_quarantined"
"""The error code of an adapter that computed NaN."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    check: str
    server: str
    passed: bool | None
    """None for a negative control, which shows what happens without our code."""
    measured: str


@dataclass(frozen=True)
class Checks:
    """Checks of one server that serves the models of `checked_base`."""

    server: str
    client: ScoringClient
    base: str
    reference: Reference

    async def _score(self, route: str) -> Logprobs | Refused:
        return await self.client.score(self.base if route == BASE else route, self.reference.prompts)

    async def same_as_reference(self) -> list[CheckResult]:
        """Compare each route alone, and all in the same batches."""
        routes = list(self.reference.exact)
        alone = {route: await self._score(route) for route in routes}
        mixed = dict(zip(routes, await asyncio.gather(*map(self._score, routes)), strict=True))
        title = f"log-probabilities as by {self.reference.by}"
        return [self._compared(f"{title}, each alone", alone), self._compared(f"{title}, mixed batches", mixed)]

    async def load_next_to_stream(self) -> CheckResult:
        """Load adapters while streams of the base run: all must have the right log-probabilities."""
        are_loaded = asyncio.Event()
        streams = asyncio.create_task(self._stream_until(are_loaded))
        await asyncio.sleep(STREAM_LEAD_SECONDS)
        loaded = {route: await self._score(route) for route in self.reference.exact if route != BASE}
        are_loaded.set()
        streamed = await streams
        distances = [await self._distance_of_stream(each) for each in streamed]
        result = self._compared("adapters loaded next to streams", loaded)
        allowed = 2 * self.reference.tolerance[BASE]
        passed = bool(result.passed) and all(distance <= allowed for distance in distances)
        of_streams = f"streams: {len(streamed)}, at most {max(distances):.1e} nats, allowed {allowed:.1e}"
        return CheckResult(result.check, self.server, passed, f"{result.measured}; {of_streams}")

    async def _stream_until(self, ended: asyncio.Event) -> list[Generated | Refused]:
        found = []
        while not ended.is_set():
            found.append(await self.client.generate(self.base, self.reference.prompts[0], STREAM_TOKENS))
        return found

    async def _distance_of_stream(self, streamed: Generated | Refused) -> float:
        """Return how far a stream's log-probabilities are from those of its text as a prompt; infinite for an error."""
        if isinstance(streamed, Refused):
            return math.inf
        prompt, (tokens, logprobs) = self.reference.prompts[0], streamed
        again = await self.client.score(self.base, [[*prompt, *tokens]])
        return math.inf if isinstance(again, Refused) else difference([logprobs], [again[0][len(prompt) - 1 :]])

    async def nan_isolation(self) -> CheckResult:
        """Ask the adapter that computes NaN again and again, and see whether others' answers change."""
        harmed, quarantined, requests = 0, 0, 0
        for _ in range(NAN_ROUNDS):
            nan = asyncio.create_task(self.client.score(NAN, self.reference.prompts))
            during = await self._score(BASE)
            answer = await nan
            quarantined += isinstance(answer, Refused) and QUARANTINED in answer.reason
            results = [(BASE, during), *[(route, await self._score(route)) for route in (BASE, "s0")]]
            requests += len(results)
            harmed += sum(not self.reference.fits(route, found) for route, found in results)
        measured = (
            f"{harmed} of {requests} rounds of others changed; "
            f"the adapter was quarantined in {quarantined} of {NAN_ROUNDS}"
        )
        return CheckResult(ISOLATION, self.server, harmed == 0 and quarantined == NAN_ROUNDS, measured)

    def _compared(self, check: str, found: Mapping[str, Logprobs | Refused]) -> CheckResult:
        wrong = [route for route, each in found.items() if not self.reference.fits(route, each)]
        errors = {route: self._error(route, each) for route, each in found.items()}
        worst = max(errors, key=lambda route: math.inf if math.isnan(errors[route]) else errors[route])
        measured = f"worst {worst}: {errors[worst]:.1e} nats, allowed {self.reference.tolerance[worst]:.1e}"
        if wrong:
            measured += f"; wrong: {', '.join(wrong)}" + _refusals(found)
        return CheckResult(check, self.server, not wrong, measured)

    def _error(self, route: str, found: Logprobs | Refused) -> float:
        return math.inf if isinstance(found, Refused) else self.reference.error(route, found)


async def nan_control(server: str, client: ScoringClient, base: str, prompts: Prompts) -> CheckResult:
    """Count the answers of the base that change after requests to the adapter that computes NaN, without a verdict.

    It compares first tokens, because a stock vLLM does not compute log-probabilities of prompts correctly if there are
    adapters.
    """
    before = await client.first_tokens(base, prompts)
    changed = 0
    for _ in range(NAN_ROUNDS):
        await client.first_tokens(NAN, prompts)
        for found, usual in zip(await client.first_tokens(base, prompts), before, strict=True):
            changed += not abs(found - usual) <= CONTROL_TOLERANCE
    measured = f"{changed} of {NAN_ROUNDS * len(prompts)} answers of the base changed"
    return CheckResult(ISOLATION, server, None, measured)


def _refusals(found: Mapping[str, Logprobs | Refused]) -> str:
    refused: Sequence[Refused] = [each for each in found.values() if isinstance(each, Refused)]
    return f" ({refused[0].status} {refused[0].reason})" if refused else ""
