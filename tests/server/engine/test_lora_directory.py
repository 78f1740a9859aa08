from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_server.engine.lora_directory import AdapterDirectory, LoraRequests
from loramux_server.metering.usage_record import Operation
from loramux_server.request_context import RequestContext, current_request
from tests.helpers.asgi import RecordingMeter

OLD, NEW = (VersionId(AdapterName("tone"), Digest(digit * 12)) for digit in "ab")


class Catalogue:
    """One alias, which can be moved."""

    def __init__(self) -> None:
        self.alias = OLD

    def resolve(self, name: str, sticky: str | None) -> VersionId | None:
        return {"tone": self.alias, str(OLD): OLD, str(NEW): NEW}.get(name)

    def path(self, version: VersionId) -> Path:
        return Path("/store") / version.digest


@pytest.fixture(autouse=True)
def request_context() -> Iterator[RequestContext]:
    context = RequestContext("id", Operation.CHAT, RecordingMeter())
    token = current_request.set(context)
    yield context
    current_request.reset(token)


def directory_of(catalogue: Catalogue) -> AdapterDirectory:
    return AdapterDirectory(catalogue, LoraRequests(catalogue, "base"))


def test_a_name_leads_to_the_engines_handle_on_one_version() -> None:
    handle = directory_of(Catalogue())["tone"]
    assert (handle.lora_name, handle.lora_path, handle.base_model_name) == (str(OLD), "/store/aaaaaaaaaaaa", "base")
    assert not handle.load_inplace


def test_an_alias_that_moves_within_a_request_means_what_it_meant_first() -> None:
    catalogue = Catalogue()
    directory = directory_of(catalogue)
    assert "tone" in directory
    catalogue.alias = NEW
    assert directory["tone"].lora_name == str(OLD)
    current_request.set(RequestContext("next", Operation.CHAT, RecordingMeter()))
    assert directory["tone"].lora_name == str(NEW)


def test_a_version_keeps_its_number_and_no_other_ever_gets_it() -> None:
    requests = LoraRequests(Catalogue(), "base")
    assert requests.of(OLD) is requests.of(OLD)
    assert requests.of(OLD).lora_int_id != requests.of(NEW).lora_int_id


def test_unknown_names_are_not_in_it() -> None:
    directory = directory_of(Catalogue())
    for name in ("", "nobody", "tone@", None, 7):
        assert name not in directory


def test_there_is_nothing_to_walk_over_at_every_request() -> None:
    directory = directory_of(Catalogue())
    assert "tone" in directory
    assert (list(directory.values()), len(directory)) == ([], 0)
