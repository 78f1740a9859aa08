"""Asks a judge on another server, over OpenAI's API."""

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from pydantic import SecretStr

from loramux_adapters.evaluation.grading import GRADE_FORMAT, MAX_TOKENS
from loramux_adapters.evaluation.scorers.base import ScoringError

TIMEOUT_SECONDS = 60.0
MAX_REPLY_BYTES = 1 << 20


class HttpJudge:
    """A judge on the server at `url`, which the settings name: clients can't make this server call another one."""

    def __init__(self, url: str, api_key: SecretStr | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
        self._transport, self._tls = transport, ssl.create_default_context()

    async def __call__(self, model: str, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the answer of `model`.

        Raises:
            ScoringError: there is none.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": list(messages),
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
        }
        body["response_format"] = GRADE_FORMAT
        try:
            async with (
                httpx.AsyncClient(transport=self._transport, verify=self._tls, timeout=TIMEOUT_SECONDS) as client,
                # Redirects are not followed: one would send the key to another address.
                client.stream("POST", self._url, json=body, headers=self._headers) as response,
            ):
                response.raise_for_status()
                content = b""
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        raise ScoringError("the judge's answer is too long")
            reply = httpx.Response(200, content=content).json()["choices"][0]["message"]["content"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
            raise ScoringError(f"the judge could not be asked: {type(error).__name__}") from error
        if not isinstance(reply, str):
            raise ScoringError("the judge gave no answer")
        return reply
