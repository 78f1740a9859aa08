"""The error tree, and its rendering for clients."""

import json

import pytest

from loramux_adapters import errors as adapter_errors
from loramux_adapters.errors import AdapterError, NoAdapterCapacity, TransientError
from loramux_server import errors
from loramux_server.errors import LoramuxError, envelope, error_response, from_adapter_error


class UnknownAdapterError(AdapterError):
    code = "of_a_later_version"


def adapter_error(kind: type[AdapterError]) -> AdapterError:
    error = kind.__new__(kind)
    error.message = "support-tone: no"
    if isinstance(error, TransientError):
        error.retry_after = 2.5
    return error


def all_of(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in all_of(sub))]


@pytest.mark.parametrize("kind", [kind for kind in all_of(AdapterError) if kind.__module__ == adapter_errors.__name__])
def test_every_error_of_the_adapters_room_has_a_status_chosen_for_it(kind: type[AdapterError]) -> None:
    answer = from_adapter_error(adapter_error(kind))
    assert answer.status == errors._ADAPTER_STATUSES[kind.code]
    assert answer.code == ("server_overloaded" if kind is NoAdapterCapacity else kind.code)
    assert answer.message == "support-tone: no"


def test_an_adapter_error_of_an_unknown_code_is_the_servers_fault() -> None:
    answer = from_adapter_error(adapter_error(UnknownAdapterError))
    assert (answer.status, answer.type, answer.code) == (500, "server_error", "of_a_later_version")


def test_no_capacity_may_be_retried_but_a_taken_name_may_not() -> None:
    for kind in (adapter_errors.NoAdapterCapacity, adapter_errors.AdapterLoadingFailed):
        assert from_adapter_error(adapter_error(kind)).headers == {"retry-after": "3"}
    taken = from_adapter_error(adapter_error(adapter_errors.AdapterExists))
    assert taken.headers == {"x-should-retry": "false"}


def test_a_version_that_is_not_served_is_not_retried_by_clients() -> None:
    """OpenAI's clients retry a 503, but this one lasts until a rollback."""
    answer = from_adapter_error(adapter_error(adapter_errors.VersionQuarantined))
    assert (answer.status, answer.code) == (503, "adapter_quarantined")
    assert answer.headers == {"x-should-retry": "false"}


def test_the_rendered_error_is_openais_and_carries_its_headers() -> None:
    answer = error_response(errors.RateLimited("Slowly.", retry_after=7))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert json.loads(bytes(answer.body)) == {
        "error": {"message": "Slowly.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    }


def test_a_message_of_any_length_and_any_characters_can_be_rendered() -> None:
    error = LoramuxError("\ud800" + "x" * 10_000_000)
    assert len(envelope(error)["error"]["message"]) == errors.MAX_MESSAGE_LENGTH
    assert len(bytes(error_response(error).body)) < 3000


@pytest.mark.parametrize(("status", "refused"), [(400, True), (429, True), (503, True), (500, False), (502, False)])
def test_refusals_are_distinguished_from_failures(status: int, refused: bool) -> None:
    assert LoramuxError("", status=status).is_refusal is refused
