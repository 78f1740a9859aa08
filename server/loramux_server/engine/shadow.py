"""Asks baselines in the background for answers that no client gets, only while the engine has nothing else to do."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_adapters.background_tasks import running_task
from loramux_server.engine.background_chat import BackgroundChat
from loramux_server.engine.experiment_chat import as_asked_of
from loramux_server.experiments.assignment import Assignment
from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.experiments.recorder import ExperimentRecorder
from loramux_server.request_context import current_request

logger = logging.getLogger("loramux.experiments")

MAX_WAITING = 32
MAX_WAIT_SECONDS = 30.0
"""A shadow request that found the engine busy for so long is dropped."""
POLL_SECONDS = 0.05
DROPPED = "shadow request dropped: the engine was busy"


@dataclass(frozen=True)
class _Waiting:
    assignment: Assignment
    request: ChatCompletionRequest
    request_id: str
    since: float


class ShadowRequests:
    """Shadow requests: one at a time, each started only while no other request runs.

    They are charged to the account `experiment:ID`. A live request that arrives during one shares the engine with
    that single sequence; ending it early instead would keep only pairs with short answers.
    """

    def __init__(
        self,
        engine: Any,
        base_name: str,
        chat: BackgroundChat,
        recorder: ExperimentRecorder,
        metrics: ExperimentMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._base_name, self._chat = engine, base_name, chat
        self._recorder, self._metrics, self._clock = recorder, metrics, clock
        self._waiting: deque[_Waiting] = deque()

    def add(self, assignment: Assignment, request: ChatCompletionRequest) -> None:
        """Ask the baseline as well, if the engine becomes idle soon."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(assignment)
            return
        self._waiting.append(_Waiting(assignment, request, current_request.get().request_id, self._clock()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask baselines while the context is active."""
        async with running_task(self._work()):
            yield

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.ask_next()

    async def ask_next(self) -> None:
        """Drop the requests that waited too long, and ask the next one if the engine is idle."""
        while self._waiting and self._clock() - self._waiting[0].since > MAX_WAIT_SECONDS:
            self._drop(self._waiting.popleft().assignment)
        if not self._waiting or self._engine.output_processor.get_num_unfinished_requests():
            return
        try:
            await self._ask(self._waiting.popleft())
        except Exception:  # the next one may succeed
            logger.exception("A shadow request failed.")

    async def _ask(self, waiting: _Waiting) -> None:
        variant = waiting.assignment.experiment.config.sampled_variant
        assignment = replace(waiting.assignment, variant=variant, is_shadow=True, wants_shadow=False, texts=None)
        outcome = "failed"
        try:
            await self._chat.complete(
                as_asked_of(variant, waiting.request, self._base_name),
                charge_to=f"experiment:{assignment.experiment.id}",
                request_id=waiting.request_id,
                assignment=assignment,
            )
            outcome = "answered" if assignment.texts is not None else "failed"
        finally:
            self._metrics.shadow(outcome)

    def _drop(self, assignment: Assignment) -> None:
        self._recorder.count(assignment, DROPPED)
        self._metrics.shadow("dropped")
