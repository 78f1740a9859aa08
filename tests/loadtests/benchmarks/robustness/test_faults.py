"""Each fault on a server in this process that reads adapters from disk at each request, or from memory."""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchmarks.robustness.adapter_api import ApiResponse
from benchmarks.robustness.corrupt import WEIGHTS, write_sound_adapter
from benchmarks.robustness.faults import FAULTS, CaseOutcome, add_sound_adapter
from benchmarks.robustness.server_under_test import MAX_LORAS, SPARE_ADAPTERS, ServerUnderTest
from loramux_loadtests.client import ChatClient, ChatReply
from tests.helpers.fake_openai_process import small_base


class FakeAdapterApi:
    """Stores folders by name; `pins` is the maximum number of pins, None if it has no pins."""

    def __init__(self, pins: int | None = None) -> None:
        self.folders: dict[str, Path] = {}
        self.pins, self.pinned = pins, set[str]()

    async def add(self, name: str, path: str) -> ApiResponse:
        self.folders[name] = Path(path)
        return ApiResponse(200, "")

    replace = add

    async def remove(self, name: str) -> ApiResponse:
        self.folders.pop(name, None)
        return ApiResponse(200, "")

    async def pin(self, name: str, *, pinned: bool) -> ApiResponse | None:
        if self.pins is None:
            return None
        if pinned and len(self.pinned) == self.pins:
            return ApiResponse(409, "pin_limit_reached")
        (self.pinned.add if pinned else self.pinned.discard)(name)
        return ApiResponse(200, "")


class FakeClient(ChatClient):
    """Answers with a word that depends on the weights on disk, or with its first answer if it `caches` them."""

    def __init__(self, api: FakeAdapterApi, *, caches: bool = False) -> None:
        super().__init__("http://fake")
        self.api, self.caches = api, caches
        self.cached: dict[str, str] = {}
        self.requested: list[str] = []

    async def chat(self, model: str, messages: object, **_: object) -> ChatReply:
        self.requested.append(model)
        try:
            tensors = load_file(self.api.folders[model] / WEIGHTS)
        except (KeyError, OSError, SafetensorError) as error:
            return reply(error=type(error).__name__)
        word = str(np.sum([tensor.sum() for tensor in tensors.values()]))
        return reply(text=self.cached.setdefault(model, word) if self.caches else word)


def reply(text: str = "", error: str | None = None) -> ChatReply:
    return ChatReply(error is None, 500 if error else 200, text, 0, 0, 0, 0.0, 0.0, None, 0.0, (), error, "", "")


Try = Callable[..., Awaitable[CaseOutcome]]


@pytest.fixture
def attempt(tmp_path: Path) -> Try:
    base, numbers = small_base(tmp_path), itertools.count(1)

    async def attempt(case: str, api: FakeAdapterApi, client: FakeClient, copies: Path | None = None) -> CaseOutcome:
        for spare in SPARE_ADAPTERS:
            await api.add(spare, str(write_sound_adapter(tmp_path / "adapters" / spare, base, next(numbers))))
        subject = ServerUnderTest("fake", api, client, base, tmp_path / "adapters", copies, numbers)
        assert await add_sound_adapter(subject)
        return await next(tried for name, tried in FAULTS.items() if name.startswith(case))(subject)

    return attempt


async def test_an_adapter_that_was_deleted_is_not_served(attempt: Try) -> None:
    client = FakeClient(api := FakeAdapterApi())
    assert await attempt("deleted", api, client) == CaseOutcome(False, "1 x FileNotFoundError")
    assert client.requested[-5:-1] == list(SPARE_ADAPTERS)  # which evicted it from the engine


async def test_nan_written_over_an_accepted_adapter_is_served_if_it_answers(attempt: Try) -> None:
    outcome = await attempt("NaN", api := FakeAdapterApi(), FakeClient(api))
    assert outcome == CaseOutcome(True, "1 x 200")


async def test_a_truncated_adapter_is_requested_repeatedly(attempt: Try) -> None:
    outcome = await attempt("truncated", api := FakeAdapterApi(), FakeClient(api))
    assert outcome == CaseOutcome(False, "64 x SafetensorError")


async def test_a_servers_own_copies_are_corrupted_too(attempt: Try, tmp_path: Path) -> None:
    class CopyingAdapterApi(FakeAdapterApi):
        async def add(self, name: str, path: str) -> ApiResponse:
            copy = tmp_path / "copies" / name / WEIGHTS
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((Path(path) / WEIGHTS).read_bytes())
            copy.chmod(0o444)
            return await super().add(name, str(copy.parent))

    client = FakeClient(api := CopyingAdapterApi())
    assert not (await attempt("deleted", api, client, tmp_path / "copies")).bad_served
    assert len(list((tmp_path / "copies").rglob(WEIGHTS))) == len(SPARE_ADAPTERS) + 1  # all but that one


@pytest.mark.parametrize("caches", [False, True])
async def test_new_weights_must_leave_nothing_of_the_old_ones(attempt: Try, caches: bool) -> None:
    outcome = await attempt("new weights", api := FakeAdapterApi(), FakeClient(api, caches=caches))
    assert outcome.bad_served == caches


@pytest.mark.parametrize(("pins", "bad_served"), [(None, False), (MAX_LORAS - 1, False), (len(SPARE_ADAPTERS), True)])
async def test_a_server_whose_every_slot_can_be_pinned_fails(attempt: Try, pins: int | None, bad_served: bool) -> None:
    api = FakeAdapterApi(pins)
    assert (await attempt("as many pinned", api, FakeClient(api))).bad_served == bad_served
    assert not api.pinned
