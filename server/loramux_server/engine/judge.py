"""Asks a model of this server to grade answers of experiments."""

from collections.abc import Mapping, Sequence

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_adapters.evaluation.grading import GRADE_FORMAT, MAX_TOKENS
from loramux_adapters.evaluation.scorers.base import ScoringError
from loramux_server.engine.background_chat import BackgroundChat

ACCOUNT = "experiment:judge"


class EngineJudge:
    """Asks the base or an adapter; its requests are charged to ACCOUNT."""

    def __init__(self, chat: BackgroundChat) -> None:
        self._chat = chat

    async def __call__(self, model: str, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the answer of `model`.

        Raises:
            ScoringError: there is none.
        """
        request = ChatCompletionRequest(
            model=model,
            messages=[dict(message) for message in messages],
            temperature=0.0,
            max_tokens=MAX_TOKENS,
            response_format=dict(GRADE_FORMAT),
        )
        try:
            texts = await self._chat.complete(request, charge_to=ACCOUNT)
        except Exception as error:
            raise ScoringError("the judge could not be asked") from error
        if not texts:
            raise ScoringError("the judge gave no answer")
        return texts[0]
