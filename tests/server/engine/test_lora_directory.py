from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_server.engine.lora_directory import AdapterDirectory, LoraRequests
from loramux_server.metering.usage_record import Operation
from loramux_server.request_context import RequestContext, current_request
from tests.helpers.asgi import RecordingMeter

OLD, NEW = (VersionId(AdapterName("tone"), Digest(digit * 12)) for digit in "ab")


class Resolver:
    """A NameResolver with one alias that can be moved."""

    def __init__(self) -> None:
        self.alias = OLD

    def resolve(self, name: str, split_key: str | None) -> VersionId | None:
        return {"tone": self.alias, str(OLD): OLD, str(NEW): NEW}.get(name)

    def path(self, version: VersionId) -> Path:
        return Path("/store") / version.digest


@pytest.fixture(autouse=True)
def request_context() -> Iterator[RequestContext]:
    context = RequestContext("id", Operation.CHAT, RecordingMeter())
    token = current_request.set(context)
    yield context
    current_request.reset(token)


def directory_of(resolver: Resolver) -> AdapterDirectory:
    return AdapterDirectory(resolver, LoraRequests(resolver, "base"))


def test_a_name_resolves_to_the_lora_request_of_a_version() -> None:
    handle = directory_of(Resolver())["tone"]
    assert (handle.lora_name, handle.lora_path, handle.base_model_name) == (str(OLD), "/store/aaaaaaaaaaaa", "base")
    assert not handle.load_inplace


def test_an_alias_that_moves_during_a_request_keeps_its_first_version() -> None:
    resolver = Resolver()
    directory = directory_of(resolver)
    assert "tone" in directory
    resolver.alias = NEW
    assert directory["tone"].lora_name == str(OLD)
    current_request.set(RequestContext("next", Operation.CHAT, RecordingMeter()))
    assert directory["tone"].lora_name == str(NEW)


def test_a_version_has_a_unique_constant_id() -> None:
    requests = LoraRequests(Resolver(), "base")
    assert requests.of(OLD) is requests.of(OLD)
    assert requests.of(OLD).lora_int_id != requests.of(NEW).lora_int_id


def test_unknown_names_are_not_in_it() -> None:
    directory = directory_of(Resolver())
    for name in ("", "nobody", "tone@", None, 7):
        assert name not in directory


def test_iteration_yields_nothing() -> None:
    directory = directory_of(Resolver())
    assert "tone" in directory
    assert (list(directory.values()), len(directory)) == ([], 0)
