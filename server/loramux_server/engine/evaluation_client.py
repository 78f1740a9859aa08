"""Chat completions for the evaluation at the end of a fine-tuning job, without HTTP."""

import time
from collections.abc import Sequence
from itertools import count
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion
from loramux_adapters.models import VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_server.engine.chat_tokens import tokenize_chat
from loramux_server.engine.lora_directory import LoraRequests


class EngineEvaluationClient:
    """Completes chats by the engine as its OpenAI handlers do, but without metering: no user asked."""

    def __init__(self, engine: Any, pool: AdapterPool, requests: LoraRequests) -> None:
        self._engine, self._pool, self._requests = engine, pool, requests
        self._numbers = count()

    async def __call__(self, version: VersionId | None, chat: Sequence[dict[str, str]], max_tokens: int) -> Completion:
        """Return the greedy completion of `chat` by the version, or by the base where `version` is None.

        Raises:
            AdapterError: the version can't be loaded, or the engine refused the chat.
        """
        if version is None:
            return await self._complete(None, chat, max_tokens)
        lease = await self._pool.lease(version, count_use=False)
        try:
            return await self._complete(self._requests.of(version), chat, max_tokens)
        finally:
            lease.release()

    async def _complete(self, lora_request: Any, chat: Sequence[dict[str, str]], max_tokens: int) -> Completion:
        tokens = tokenize_chat(self._engine.renderer.tokenizer, chat)
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY)
        request_id, started = f"evaluation-{next(self._numbers)}", time.monotonic()
        try:
            prompt = {"prompt_token_ids": tokens}
            async for output in self._engine.generate(prompt, params, request_id, lora_request=lora_request):
                last = output
        except ValueError as error:  # such as a prompt longer than the context
            raise EvaluationFailed("The engine refused a question of the comparison.") from error
        answer = last.outputs[0]
        return Completion(answer.text, len(tokens), len(answer.token_ids), time.monotonic() - started)
