"""Observes the steps of vLLM's engine in the API process: the work that each run had in them, as the engine reports it.

The outputs that vLLM's `generate` yields do not suffice: a plain request has only one, at its end, and a slow reader
gets them later than the engine made them. All steps pass `OutputProcessor.process_outputs`, whatever the request.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loramux_server.engine.work_reports import WORK_REPORT
from loramux_server.fairness.admission import Turn
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import ActiveRun, CostShare, StepWork

logger = logging.getLogger("loramux.metering")


@dataclass(eq=False, slots=True)
class RunProgress:
    """What the engine has done for a run so far."""

    sequences: int = 1
    """Sequences that have not ended in the engine."""
    has_started: bool = False
    """Whether the engine has computed any of the prompt."""
    cached_tokens: int | None = None
    """Prompt tokens from the prefix cache, of the sequence with fewest: the others may find its blocks there."""
    output_tokens: int = 0
    """Tokens of all sequences, including those that no output has shown yet."""
    turn: Turn = field(default_factory=Turn)
    """The run's turn in the engine, which is told its first token and its end."""


@dataclass(eq=False, slots=True)
class _ObservedRun:
    progress: RunProgress
    active: ActiveRun
    reported_prefill: dict[str, int] = field(default_factory=dict)
    """Tokens of the prompt chunks of each sequence that has no token yet, by its id."""


class StepObserver:
    """Adds the work of each step to the runs that it was for. `close` restores the output processor."""

    def __init__(self, output_processor: Any, meter: ChargingMeter) -> None:
        self._processor, self._meter = output_processor, meter
        self._runs: dict[str, _ObservedRun] = {}
        self._works: list[StepWork] = []
        """The work of the present step."""
        self._has_failed = False
        self._process = output_processor.process_outputs
        output_processor.process_outputs = self._process_outputs

    def close(self) -> None:
        """Stop observing."""
        self._processor.process_outputs = self._process

    @contextmanager
    def observing(self, request_id: str, cost_share: CostShare, progress: RunProgress) -> Iterator[str]:
        """Observe a run while the context is active; yields the id with which the engine must be asked.

        It is `request_id`, unless another run has that: clients may choose equal ids.
        """
        if request_id in self._runs:
            request_id = f"{request_id}-{uuid.uuid4().hex}"
        run = self._runs[request_id] = _ObservedRun(progress, self._meter.start_run(cost_share))
        try:
            yield request_id
        finally:
            del self._runs[request_id]
            self._meter.end_run(run.active)

    def _process_outputs(self, outputs: Sequence[Any], *args: Any, **options: Any) -> Any:
        try:
            observed = [(output.request_id, run) for output in outputs if (run := self._count(output))]
            self._count_step(args[0] if args else None)
        except Exception:  # it runs in vLLM's output handler, whose failure would fail all requests
            if not self._has_failed:
                logger.exception("The work of a step could not be counted; shares of the engine's cost may be wrong.")
            observed, self._has_failed = [], True
        result = self._process(outputs, *args, **options)
        for request_id, run in observed:
            if request_id not in self._processor.request_states:
                self._end_sequence(run)
        return result

    def _count_step(self, timestamp: float | None) -> None:
        works, self._works = self._works, []
        self._meter.count_step(works, time.monotonic() if timestamp is None else timestamp)

    def _count(self, output: Any) -> _ObservedRun | None:
        """Count an output; returns its run, None if it is a report or of a run that is not observed."""
        state = self._processor.request_states.get(output.request_id)
        if state is None:
            self._count_report(output)
            return None
        run = self._runs.get(state.external_req_id)
        if run is None:
            return None
        prefill, tokens = 0, len(output.new_token_ids)
        if tokens and state.is_prefilling:
            reported = run.reported_prefill.pop(output.request_id, 0)
            computed = _count_prompt(run.progress, state.prompt_len, _cached_tokens(output))
            prefill = max(0, computed - reported)  # more was reported if it was preempted and computed again
        self._works.append((run.active, prefill, 1 if tokens else 0))
        run.progress.output_tokens += tokens
        return run

    def _count_report(self, output: Any) -> None:
        kind, found, request_id = output.request_id.partition(WORK_REPORT)
        state = self._processor.request_states.get(request_id) if found and not kind else None
        run = self._runs.get(state.external_req_id) if state else None
        if state is None or run is None:
            return
        tokens = output.new_token_ids[0]
        self._works.append((run.active, tokens, 0))
        run.progress.has_started = True
        if state.is_prefilling:
            run.reported_prefill[request_id] = run.reported_prefill.get(request_id, 0) + tokens

    def _end_sequence(self, run: _ObservedRun) -> None:
        run.progress.sequences -= 1
        if not run.progress.sequences:
            self._meter.end_run(run.active)
            run.progress.turn.on_ended()


def _count_prompt(progress: RunProgress, prompt_tokens: int, cached_tokens: int) -> int:
    """Count the prompt of a sequence with its first token; returns its computed tokens."""
    progress.has_started = True
    known = progress.cached_tokens
    progress.cached_tokens = cached_tokens if known is None else min(known, cached_tokens)
    if known is None:
        progress.turn.on_first_token()
    return prompt_tokens - cached_tokens


def _cached_tokens(output: Any) -> int:
    stats = getattr(output, "prefill_stats", None)
    if stats is not None:
        return int(stats.num_cached_tokens)
    return int(getattr(output, "num_cached_tokens", 0) or 0)  # vLLM 0.26
