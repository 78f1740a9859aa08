"""Counts a beam search as one run, with the usage of its response.

vLLM computes a beam search as many runs of one token, each with the prompt and the tokens of its beam. Each of them has
its own work in the engine, but the tokens of the prompt are counted once, and those of the answer as the response does.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput

from loramux_adapters.models import VersionId
from loramux_server.limits.limiter import RunDemand
from loramux_server.metering.usage_record import Route, RunStats, combine
from loramux_server.request_context import Run, current_request

_current: ContextVar["BeamSearch | None"] = ContextVar("current_beam_search", default=None)


class FinishableRun(Protocol):
    """A run of the engine, whose statistics are known at its end."""

    def finish(self, stats: RunStats) -> None:
        """Store the statistics of the run; must be called exactly once."""


@dataclass(eq=False, slots=True)
class BeamSearch:
    """One beam search, and the statistics of the runs that it consists of."""

    run: Run
    steps: list[RunStats] = field(default_factory=list)
    output: RequestOutput | None = None
    """The result."""

    def stats(self) -> RunStats:
        """Return the statistics of the whole; of an aborted one, the tokens that the engine generated."""
        steps = combine(self.steps)
        first = self.steps[0] if self.steps else RunStats()
        counts: dict[str, Any] = {"input_tokens": first.input_tokens}
        if self.output is not None:
            choices = self.output.outputs
            counts = {
                "input_tokens": len(self.output.prompt_token_ids or ()),
                "output_tokens": sum(len(choice.token_ids) for choice in choices),
                "sequences": max(1, len(choices)),
                "finish_reason": next((choice.finish_reason for choice in choices), None),
            }
        kept = {name: getattr(steps, name) for name in ("output_tokens", "lease_wait", "first_token", "last_token")}
        kept |= {name: getattr(steps, name) for name in ("preemptions", "corrupted", "cold")}
        return RunStats(**kept | {"cached_tokens": first.cached_tokens, "queue": first.queue} | counts)


@dataclass(eq=False, slots=True)
class _Step:
    search: BeamSearch
    started: float

    def finish(self, stats: RunStats) -> None:
        """Add a step to its beam search."""
        self.search.steps.append(stats.shifted(self.started - self.search.run.started))


def begin_run(route: Route) -> FinishableRun:
    """Start a run of the current request: one of its own, or a step of the current beam search."""
    search = _current.get()
    return _Step(search, time.monotonic()) if search else current_request.get().begin_run(route)


def count_beam_searches_as_one(serving: Any) -> None:
    """Replace `beam_search` of one of vLLM's OpenAI handlers by one that is counted as one run."""
    search_beams = serving.beam_search

    async def beam_search(
        prompt: Any, request_id: str, params: Any, lora_request: LoRARequest | None = None, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        version = VersionId.parse(lora_request.lora_name) if lora_request else None
        route = Route(version.name, version.digest) if version else Route()
        search = BeamSearch(current_request.get().begin_run(route))
        try:
            await serving.engine_client.start_run(_demand(version, prompt, params))
            beams = search_beams(prompt, request_id, params, lora_request=lora_request, **options)
            async with aclosing(beams) as outputs:
                while (output := await _next(outputs, search)) is not None:
                    search.output = output
                    yield output
        finally:
            search.run.finish(search.stats())

    serving.beam_search = beam_search


def _demand(version: VersionId | None, prompt: Any, params: Any) -> RunDemand:
    """Return the tokens that the search needs at most, of a prompt and beam search parameters of vLLM."""
    adapter = version.name if version else None
    return RunDemand(adapter, len(prompt.get("prompt_token_ids", ())), params.max_tokens, params.beam_width)


async def _next(outputs: AsyncGenerator[RequestOutput, None], search: BeamSearch) -> RequestOutput | None:
    """Return the next output; the tasks that compute it inherit the current beam search."""
    token = _current.set(search)
    try:
        return await anext(outputs, None)
    finally:
        _current.reset(token)
