"""Asking a version, or the base, what a user would ask: for the comparison at a fine-tuning job's end."""

import time
from collections.abc import Sequence
from itertools import count
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.evaluation.evaluator import Reply
from loramux_adapters.finetuning.jobs.errors import TrialFailed
from loramux_adapters.models import VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_server.engine.chat_tokens import in_tokens
from loramux_server.engine.lora_directory import LoraRequests


class EngineAsk:
    """Puts chats to the engine as its own OpenAI handlers do, but uncharged: no user asked."""

    def __init__(self, engine: Any, pool: AdapterPool, requests: LoraRequests) -> None:
        self._engine, self._pool, self._requests = engine, pool, requests
        self._numbers = count()

    async def __call__(self, version: VersionId | None, chat: Sequence[dict[str, str]], most_tokens: int) -> Reply:
        """Return the likeliest answer; raises AdapterError."""
        if version is None:
            return await self._ask(None, chat, most_tokens)
        lease = await self._pool.lease(version, served=False)
        try:
            return await self._ask(self._requests.of(version), chat, most_tokens)
        finally:
            lease.release()

    async def _ask(self, route: Any, chat: Sequence[dict[str, str]], most_tokens: int) -> Reply:
        tokens = in_tokens(self._engine.renderer.tokenizer, chat)
        params = SamplingParams(temperature=0.0, max_tokens=most_tokens, output_kind=RequestOutputKind.FINAL_ONLY)
        name, began = f"trial-{next(self._numbers)}", time.monotonic()
        try:
            async for output in self._engine.generate({"prompt_token_ids": tokens}, params, name, lora_request=route):
                last = output
        except ValueError as error:  # such as a prompt longer than the context
            raise TrialFailed("The engine refused a question of the comparison.") from error
        answer = last.outputs[0]
        return Reply(answer.text, len(tokens), len(answer.token_ids), time.monotonic() - began)
