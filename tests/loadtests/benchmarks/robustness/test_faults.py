"""Each mishap against a server in this process that reads an adapter anew at each request, or knows better."""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchmarks.robustness.adapter_api import Answer
from benchmarks.robustness.corrupt import WEIGHTS, write_sound
from benchmarks.robustness.faults import MISHAPS, Outcome, accepted
from benchmarks.robustness.server_under_test import SLOTS, SPARES, Subject
from loramux_loadtests.client import Client, Reply
from tests.helpers.fake_openai_process import small_base


class FakeDoor:
    """Keeps adapters by their folders; `pins` is how many may be pinned, None if it has no pins."""

    def __init__(self, pins: int | None = None) -> None:
        self.folders: dict[str, Path] = {}
        self.pins, self.pinned = pins, set[str]()

    async def offer(self, name: str, path: str) -> Answer:
        self.folders[name] = Path(path)
        return Answer(200, "")

    renew = offer

    async def withdraw(self, name: str) -> Answer:
        self.folders.pop(name, None)
        return Answer(200, "")

    async def pin(self, name: str, *, pinned: bool) -> Answer | None:
        if self.pins is None:
            return None
        if pinned and len(self.pinned) == self.pins:
            return Answer(409, "pin_limit_reached")
        (self.pinned.add if pinned else self.pinned.discard)(name)
        return Answer(200, "")


class FakeClient(Client):
    """Answers with a word that depends on the weights as they are on disk; `forgets` nothing of an old name."""

    def __init__(self, door: FakeDoor, *, remembers: bool = False) -> None:
        super().__init__("http://fake")
        self.door, self.remembers = door, remembers
        self.said: dict[str, str] = {}
        self.asked: list[str] = []

    async def chat(self, model: str, messages: object, **_: object) -> Reply:
        self.asked.append(model)
        try:
            tensors = load_file(self.door.folders[model] / WEIGHTS)
        except (KeyError, OSError, SafetensorError) as error:
            return reply(error=type(error).__name__)
        word = str(np.sum([tensor.sum() for tensor in tensors.values()]))
        return reply(text=self.said.setdefault(model, word) if self.remembers else word)


def reply(text: str = "", error: str | None = None) -> Reply:
    return Reply(error is None, 500 if error else 200, text, 0, 0, 0, 0.0, 0.0, None, 0.0, (), error, "", "")


Try = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def attempt(tmp_path: Path) -> Try:
    base, numbers = small_base(tmp_path), itertools.count(1)

    async def attempt(case: str, door: FakeDoor, client: FakeClient, copies: Path | None = None) -> Outcome:
        for spare in SPARES:
            await door.offer(spare, str(write_sound(tmp_path / "adapters" / spare, base, next(numbers))))
        subject = Subject("fake", door, client, base, tmp_path / "adapters", copies, numbers)
        assert await accepted(subject)
        return await next(tried for name, tried in MISHAPS.items() if name.startswith(case))(subject)

    return attempt


async def test_an_adapter_that_is_gone_from_disk_gets_in_nowhere(attempt: Try) -> None:
    client = FakeClient(door := FakeDoor())
    assert await attempt("deleted", door, client) == Outcome(False, "1 x FileNotFoundError")
    assert client.asked[-5:-1] == list(SPARES)  # by which the engine forgot it


async def test_nan_written_over_an_accepted_adapter_has_got_in_if_it_answers(attempt: Try) -> None:
    outcome = await attempt("NaN", door := FakeDoor(), FakeClient(door))
    assert outcome == Outcome(True, "1 x 200")


async def test_a_broken_adapter_is_asked_for_again_and_again(attempt: Try) -> None:
    outcome = await attempt("truncated", door := FakeDoor(), FakeClient(door))
    assert outcome == Outcome(False, "64 x SafetensorError")


async def test_a_servers_own_copies_are_damaged_too(attempt: Try, tmp_path: Path) -> None:
    class Copying(FakeDoor):
        async def offer(self, name: str, path: str) -> Answer:
            copy = tmp_path / "copies" / name / WEIGHTS
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((Path(path) / WEIGHTS).read_bytes())
            copy.chmod(0o444)
            return await super().offer(name, str(copy.parent))

    client = FakeClient(door := Copying())
    assert not (await attempt("deleted", door, client, tmp_path / "copies")).got_in
    assert len(list((tmp_path / "copies").rglob(WEIGHTS))) == len(SPARES) + 1  # all but that one


@pytest.mark.parametrize("remembers", [False, True])
async def test_new_weights_must_leave_nothing_of_the_old_ones(attempt: Try, remembers: bool) -> None:
    outcome = await attempt("new weights", door := FakeDoor(), FakeClient(door, remembers=remembers))
    assert outcome.got_in == remembers


@pytest.mark.parametrize(("pins", "got_in"), [(None, False), (SLOTS - 1, False), (len(SPARES), True)])
async def test_a_server_that_lets_every_slot_be_pinned_is_told(attempt: Try, pins: int | None, got_in: bool) -> None:
    door = FakeDoor(pins)
    assert (await attempt("as many pinned", door, FakeClient(door))).got_in == got_in
    assert not door.pinned
