"""OpenAI's official client, with errors of its own kind.

The providers and the loramux server itself are asked with it: all speak OpenAI's protocol, or nearly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
from pydantic import SecretStr

from loramux_server.importing.errors import (
    ContentGoneError,
    ImportingError,
    ProviderError,
    QueueFullError,
    RefusedError,
)

MAX_RETRIES = 8
"""With the client's backoff, about a minute: a server may restart meanwhile."""
TIMEOUT_SECONDS = 600.0
_MAX_MESSAGE = 2000


def make_client(url: str, key: SecretStr | None, *, retries: int = MAX_RETRIES) -> openai.OpenAI:
    """Return a client for the API at `url`, which ends with the API's version, such as `/v1`."""
    return openai.OpenAI(
        base_url=url, api_key=key.get_secret_value() if key else "none", max_retries=retries, timeout=TIMEOUT_SECONDS
    )


@contextmanager
def translated_errors(server: str, *, ours: bool = False) -> Iterator[None]:
    """Turn the client's errors into errors of the import; `ours`: a 4xx of the loramux server is about the request.

    Raises:
        ContentGoneError: status 404 or 410.
        RefusedError: another 4xx of the loramux server.
        QueueFullError: its queue of jobs is full.
        ProviderError: the server can't be reached, or refuses.
    """
    try:
        yield
    except (openai.NotFoundError, openai.APIStatusError) as error:
        raise _status_error(server, error, ours=ours) from error
    except openai.APIConnectionError as error:
        raise ProviderError(f"{server} can't be reached: {error.__cause__ or error}") from error
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        raise ProviderError(f"{server}: {error}") from error


def _status_error(server: str, error: openai.APIStatusError, *, ours: bool) -> ImportingError:
    message = _message(error)
    if error.status_code in {404, 410}:
        return ContentGoneError(message)
    if error.status_code in {401, 403}:
        return ProviderError(f"{server} refuses the API key ({error.status_code}): {message}")
    if ours and error.status_code == 429:
        return QueueFullError(message)
    if ours and error.status_code < 500:
        return RefusedError(message)
    return ProviderError(f"{server} answers {error.status_code}: {message}")


def _message(error: openai.APIStatusError) -> str:
    """The server's own message; the client's would repeat the whole body."""
    body: Any = error.body
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    text = body.get("message") if isinstance(body, dict) else body
    return str(text or error)[:_MAX_MESSAGE]
