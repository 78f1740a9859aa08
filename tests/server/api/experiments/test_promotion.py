"""Candidates that are promoted or rolled back by themselves, on the fake engine: its answers name their version."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.experiment_traffic import chat, recorded, start, user_of
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("promotion"), tiny_base) as tiny:
        yield tiny


class Canary:
    """An adapter with two versions, of which the newer one is not promoted yet."""

    def __init__(self, tiny: TinyServer, name: str, old: str, new: str) -> None:
        self.tiny, self.name, self.old, self.new = tiny, name, old, new

    @classmethod
    async def create(cls, tiny: TinyServer, name: str) -> "Canary":
        old, new = await tiny.add(name, 0), await tiny.add(name, 1)
        await tiny.server.adapter_service.roll_back(
            tiny.server.adapter_service.resolver.require(name).name, actor="test"
        )
        return cls(tiny, name, old, new)

    async def start(self, liked: str, when: str = "better", **limits: float) -> dict[str, Any]:
        """Start a promotion that is decided by whose answers have the digest `liked`."""
        scorer = {"type": "style", "rules": {"liked": {"match": liked.partition("@")[2][:6]}}}
        return await start(
            self.tiny,
            adapter=self.name,
            candidate=self.new,
            quality={"type": "scorer", "scorer": scorer},
            promotion={"when": when, "limits": limits},
        )

    async def ask(self, experiment: dict[str, Any], number: int = 30) -> dict[str, Any]:
        """Ask by some users of each variant, and look."""
        for variant in ("candidate", "current"):
            for each in range(number):
                header, _ = await chat(self.tiny, user_of(experiment, variant, each), self.name, max_tokens=24)
                assert header.startswith(f"{experiment['id']}/")
        await recorded(self.tiny, experiment, 2 * number)
        await self.tiny.server.experimentation.service.tick()
        return dict((await self.tiny.http.get(f"/admin/experiments/{experiment['id']}")).json())

    @property
    def target(self) -> str:
        record = self.tiny.server.adapter_service.resolver.require(self.name)
        (digest,) = record.targets
        return f"{self.name}@{digest}"

    async def actions(self) -> list[tuple[str, str]]:
        changes = (await self.tiny.http.get(f"/admin/audit?adapter={self.name}&limit=3")).json()["data"]
        return [(change["action"], change["actor"]) for change in changes]


async def test_a_better_candidate_is_promoted_by_itself(tiny: TinyServer) -> None:
    canary = await Canary.create(tiny, "better")
    experiment = await canary.start(liked=canary.new)
    assert canary.target == canary.old
    ended = await canary.ask(experiment)
    assert (ended["state"], canary.target) == ("promoted", canary.new)
    assert ended["reason"].startswith("candidate is better than current")
    assert await canary.actions() == [
        ("experiment_end", "experiment"),
        ("promote", "experiment"),
        ("experiment_start", "anonymous"),
    ]
    header, completion = await chat(tiny, "user-1", canary.name)
    assert (header, completion.model) == ("", canary.new)


async def test_a_worse_candidate_is_rolled_back_by_itself(tiny: TinyServer) -> None:
    canary = await Canary.create(tiny, "worse")
    ended = await canary.ask(await canary.start(liked=canary.old))
    assert (ended["state"], canary.target) == ("rolled_back", canary.old)
    assert (await canary.actions())[:2] == [("experiment_end", "experiment"), ("experiment_start", "anonymous")]


async def test_an_undecided_candidate_stays_a_canary(tiny: TinyServer) -> None:
    canary = await Canary.create(tiny, "undecided")
    experiment = await canary.start(liked="x@nobody", when="not-worse")
    shown = await canary.ask(experiment, 5)
    assert (shown["state"], canary.target) == ("running", canary.old)
    assert shown["report"]["units_needed"] > 10
    await tiny.http.delete(f"/admin/experiments/{experiment['id']}")


async def test_a_candidate_that_computes_nan_is_rolled_back_and_its_users_get_the_current_answers(
    tiny: TinyServer,
) -> None:
    canary = await Canary.create(tiny, "corrupt")
    experiment = await canary.start(liked=canary.new, errors=0.02)
    tiny.engine.corrupt.add(canary.new)
    header, completion = await chat(tiny, user_of(experiment, "candidate"), canary.name)
    assert header == f"{experiment['id']}/current; assigned=candidate"
    assert completion.choices[0].message.content.startswith(f"[{canary.old}"[:10])
    await tiny.server.experimentation.service.tick()
    ended = (await tiny.http.get(f"/admin/experiments/{experiment['id']}")).json()
    assert (ended["state"], canary.target) == ("rolled_back", canary.old)
    assert "NaN" in ended["reason"]


async def test_a_candidate_that_fails_too_often_is_rolled_back(tiny: TinyServer) -> None:
    canary = await Canary.create(tiny, "failing")
    experiment = await canary.start(liked=canary.new, errors=0.02)
    await tiny.evict()
    tiny.engine.refused_loads.add(canary.new)
    for number in range(4):
        header, _ = await chat(tiny, user_of(experiment, "candidate", number), canary.name)
        assert header.endswith("assigned=candidate")
        _, stream = await chat(tiny, user_of(experiment, "candidate", number), canary.name, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith(f"[{canary.old}"[:20])
    await recorded(tiny, experiment, 8)
    ended = (await tiny.http.get(f"/admin/experiments/{experiment['id']}")).json()
    assert ended["state"] == "rolled_back"
    assert ended["reason"] == "The candidate failed on 100.0% of 8 requests, beyond the limit of 2.0%."


async def test_a_change_of_what_the_name_points_at_ends_the_experiment(tiny: TinyServer) -> None:
    """A fine-tuning job may promote its result at any time."""
    canary = await Canary.create(tiny, "moved")
    experiment = await canary.start(liked=canary.new)
    newest = await tiny.add(canary.name, 2)
    assert (await chat(tiny, user_of(experiment, "candidate"), canary.name))[1].model == newest
    await tiny.server.experimentation.service.tick()
    ended = (await tiny.http.get(f"/admin/experiments/{experiment['id']}")).json()
    assert (ended["state"], canary.target) == ("interrupted", newest)
    assert "does not point at" in ended["reason"]


async def test_an_experiment_is_refused_while_the_name_is_split(tiny: TinyServer) -> None:
    canary = await Canary.create(tiny, "split")
    targets = [{"version": canary.old, "weight": 1}, {"version": canary.new, "weight": 1}]
    await tiny.http.put("/admin/adapters/split/alias", json={"targets": targets})
    body = {"adapter": "split", "candidate": canary.new, "quality": {"type": "feedback"}}
    refused = await tiny.http.post("/admin/experiments", json=body)
    assert refused.status_code == 400
    assert "is split among several versions" in refused.json()["error"]["message"]


async def test_a_promotion_that_was_stored_before_a_crash_is_completed_after_it(tiny: TinyServer) -> None:
    canary = await Canary.create(tiny, "crashed")
    experiment = await canary.start(liked=canary.new)
    service = tiny.server.experimentation.service
    stored = await service.get(experiment["id"])
    version = service.adapters.resolver.version(canary.new)
    assert version is not None
    await service.adapters.set_alias(version.id.name, {version.id.digest: 1.0}, actor="experiment", checked=False)
    service.live.remove(stored)
    await service.resume()
    await service.tick()
    assert (await service.get(experiment["id"])).state == "promoted"
