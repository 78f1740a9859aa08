import json
from typing import Any

import pytest
from pydantic import ValidationError

from loramux_server.settings import load_settings
from loramux_server.settings.errors import SettingsError
from loramux_server.webhooks.endpoints import WebhookSettings
from tests.helpers.webhook_receiver import SECRET

URL = "https://example.com/hooks/top-secret-token"


def webhook(**changes: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"url": URL, "secret": SECRET} | changes)


def test_all_events_are_sent_unless_some_are_chosen() -> None:
    assert webhook().events == (
        "fine_tuning.job.succeeded",
        "fine_tuning.job.failed",
        "fine_tuning.job.cancelled",
    )
    assert webhook(events=["fine_tuning.job.failed"]).events == ("fine_tuning.job.failed",)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https://[::1",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://example.com/\r\nx: y",
        "https://exa mple.com/",
        "https://me:password@example.com/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
    ],
)
def test_a_url_that_nothing_can_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        webhook(url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://[::1]/x", "https://hooks.example.com/a?b=c"])
def test_other_urls_are_accepted(url: str) -> None:
    assert webhook(url=url).url.get_secret_value() == url


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%%", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"])
def test_a_secret_that_is_none_is_refused_and_one_can_be_made_with_the_command_in_the_message(secret: str) -> None:
    with pytest.raises(ValidationError, match="openssl rand -base64 32"):
        webhook(secret=secret)


@pytest.mark.parametrize("events", [[], ["response.completed"], ["fine_tuning.job.paused"]])
def test_unknown_events_are_refused(events: list[str]) -> None:
    with pytest.raises(ValidationError):
        webhook(events=events)


def test_no_text_of_it_shows_the_url_or_the_secret() -> None:
    found = webhook()
    for text in (repr(found), str(found), found.model_dump_json(), found.id, found.host):
        assert "top-secret-token" not in text
        assert SECRET not in text
    assert found.host == "example.com"
    assert found.id != webhook(url="https://example.com/other").id


def test_it_is_set_in_the_environment_as_json_and_its_error_does_not_show_the_secret() -> None:
    variable = f'[{{"url": "{URL}", "secret": "{SECRET}"}}]'
    assert load_settings(environ={"LORAMUX_WEBHOOKS": variable}).webhooks == (webhook(),)
    with pytest.raises(SettingsError, match=r"webhooks.0.events") as refused:
        load_settings(environ={"LORAMUX_WEBHOOKS": variable.replace("}]", ', "events": ["x"]}]')})
    assert SECRET not in str(refused.value)


def test_two_webhooks_of_one_url_are_refused() -> None:
    """Each would take messages of the other, and sign them with its own secret."""
    one = {"url": URL, "secret": SECRET}
    others = [{"url": f"{URL}/2", "secret": SECRET}, one | {"events": ["fine_tuning.job.failed"]}]
    assert len(load_settings(environ={"LORAMUX_WEBHOOKS": json.dumps([one, others[0]])}).webhooks) == 2
    with pytest.raises(SettingsError, match="two webhooks have the same url"):
        load_settings(environ={"LORAMUX_WEBHOOKS": json.dumps([one, others[1]])})
