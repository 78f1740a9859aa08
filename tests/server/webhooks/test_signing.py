import json
import time

import openai
import pytest
from openai.types.webhooks import FineTuningJobSucceededWebhookEvent
from pydantic import SecretStr

from loramux_server.webhooks.endpoints import signing_key
from loramux_server.webhooks.signing import Message, signed_headers
from tests.helpers.webhook_receiver import SECRET

MESSAGE = Message("evt_1", "fine_tuning.job.succeeded", "ftjob-1", 1_700_000_000.9)
KEY = signing_key(SecretStr(SECRET)) or b""


@pytest.fixture
def now() -> float:
    return time.time()


def test_the_official_client_accepts_a_message_and_reads_its_type(now: float) -> None:
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    event = client.webhooks.unwrap(MESSAGE.body, signed_headers(MESSAGE, KEY, now))
    assert isinstance(event, FineTuningJobSucceededWebhookEvent)
    assert (event.id, event.object, event.data.id, event.created_at) == ("evt_1", "event", "ftjob-1", 1_700_000_000)


@pytest.mark.parametrize("change", ["body", "key", "time", "id"])
def test_the_official_client_refuses_what_was_changed_or_sent_late(now: float, change: str) -> None:
    sent = now - 600 if change == "time" else now
    headers = dict(signed_headers(MESSAGE, b"another" if change == "key" else KEY, sent))
    if change == "id":
        headers["webhook-id"] = "evt_2"
    body = MESSAGE.body.replace(b"succeeded", b"cancelled") if change == "body" else MESSAGE.body
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="none", webhook_secret=SECRET).webhooks.unwrap(body, headers)


def test_the_body_says_no_more_than_openai_s() -> None:
    assert set(json.loads(MESSAGE.body)) == {"id", "object", "created_at", "type", "data"}
