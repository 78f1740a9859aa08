"""Messages in OpenAI's form, signed by the Standard Webhooks specification, as OpenAI signs them."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """A message about a job that ended at `at` (Unix seconds)."""

    event: str
    type: str
    job: str
    at: float

    @property
    def body(self) -> bytes:
        """The body to post, in OpenAI's form of an event."""
        content = {
            "id": self.event,
            "object": "event",
            "created_at": int(self.at),
            "type": self.type,
            "data": {"id": self.job},
        }
        return json.dumps(content).encode()


def signed_headers(message: Message, key: bytes, now: float) -> Mapping[str, str]:
    """Return the headers by which a receiver checks the sender, the content, and that it is not an old message."""
    timestamp = str(int(now))
    signed = b".".join([message.event.encode(), timestamp.encode(), message.body])
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "user-agent": "loramux",
        "webhook-id": message.event,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
