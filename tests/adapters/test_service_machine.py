"""Whatever operators do in whatever order: memory, registry, store and audit tell the same, and only READY serves."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loramux_adapters.errors import (
    AdapterError,
    AdapterNotFound,
    AdapterRejected,
    NoAdapterCapacity,
    NothingToRollBack,
    PinLimit,
    VersionInUse,
    VersionNotFound,
    VersionNotReady,
)
from loramux_adapters.models import AdapterName, Digest, VersionId, VersionState
from loramux_adapters.registry.transaction import shares
from tests.helpers.adapter_services import SILENT, Workshop
from tests.helpers.audit_replay import replayed, summary
from tests.helpers.registry_records import PROOF

PROVING, READY = VersionState.PROVING, VersionState.READY
REJECTED, QUARANTINED = VersionState.REJECTED, VersionState.QUARANTINED
NAMES = st.sampled_from([AdapterName("tone"), AdapterName("ft:tiny/org:intent"), AdapterName("b")])
SEEDS = st.integers(0, 3)
WEIGHTS = st.dictionaries(SEEDS, st.sampled_from([0.01, 1.0, 95.0]), min_size=1)
MOST_PINS = 2


@dataclass
class Model:
    """One adapter as it should be."""

    states: dict[Digest, VersionState] = field(default_factory=dict)
    wishes: dict[Digest, bool] = field(default_factory=dict)
    targets: dict[Digest, float] = field(default_factory=dict)
    history: list[dict[Digest, float]] = field(default_factory=list)
    pinned: bool = False

    def lead_to(self, targets: Mapping[Digest, float]) -> None:
        if self.targets and shares(self.targets) != shares(targets):
            self.history.append(self.targets)
        self.targets = dict(targets)

    def can_serve(self, targets: Mapping[Digest, float]) -> bool:
        return all(self.states.get(digest) is READY for digest in targets)


class Operators(RuleBasedStateMachine):
    """Operators of one server, which is started again now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp())
        self.workshop = Workshop(self.root, capacity=MOST_PINS + 1)
        self.digests: dict[int, Digest] = {}
        self.model: dict[AdapterName, Model] = {}
        self.open()

    def teardown(self) -> None:
        self.run(self.library.close())
        self.runner.close()
        self.workshop.close()
        shutil.rmtree(self.root)

    def open(self) -> None:
        async def opened() -> None:
            self.library, self.engine = self.workshop.open()

        self.run(opened())

    def run(self, work: Awaitable[Any]) -> Any:
        async def settled() -> Any:
            try:
                return await work
            finally:
                await self.library.changes.settled() if hasattr(self, "library") else None

        return self.runner.run(settled())

    def refused(self, kind: type[AdapterError], work: Awaitable[Any]) -> None:
        try:
            self.run(work)
        except AdapterError as error:
            assert isinstance(error, kind), error
        else:
            raise AssertionError(f"was not refused with {kind.__name__}")

    def digest(self, seed: int) -> Digest:
        """The digest of a content, which is known once it was added; an unknown one until then."""
        return self.digests.get(seed, Digest(f"{seed:012x}"))

    def after_entering(self, name: AdapterName, seed: int, *, promote: bool) -> Model:
        """The model once content is in, and before it is proven."""
        model = self.model.setdefault(name, Model())
        self.digests.update({seed: self.newest(name, seed)})
        digest = self.digests[seed]
        before = model.states.get(digest)
        if before is not READY:
            model.wishes[digest] = promote or (before is PROVING and model.wishes[digest])
            model.states[digest] = PROVING
        return model

    def newest(self, name: AdapterName, seed: int) -> Digest:
        """The digest that the content of `seed` was registered with."""
        if seed in self.digests:
            return self.digests[seed]
        known = set(self.digests.values())
        versions = self.library.registry.get(name).versions
        return next(version.id.digest for version in versions if version.id.digest not in known)

    def lead_to(self, model: Model, digest: Digest) -> None:
        model.lead_to({digest: 1.0})

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def add_a_good_one(self, name: AdapterName, seed: int, promote: bool) -> None:
        self.engine.verdict = PROOF
        added = self.run(self.library.add(name, self.workshop.source(seed), actor="operator", promote=promote))
        model = self.after_entering(name, seed, promote=promote)
        was_ready = model.states[added.id.digest] is READY
        if promote if was_ready else model.wishes[added.id.digest]:
            self.lead_to(model, added.id.digest)
        model.states[added.id.digest] = READY

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def add_one_without_effect(self, name: AdapterName, seed: int, promote: bool) -> None:
        self.engine.verdict = SILENT
        if self.state(name, seed) is READY:  # what serves is not tried again
            self.add_a_good_one(name, seed, promote)
            return
        source = self.workshop.source(seed)
        self.refused(AdapterRejected, self.library.add(name, source, actor="operator", promote=promote))
        model = self.after_entering(name, seed, promote=promote)
        model.states[self.digests[seed]] = REJECTED

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def add_one_that_can_t_be_tried_now(self, name: AdapterName, seed: int, promote: bool) -> None:
        self.engine.verdict = NoAdapterCapacity("full")
        if self.state(name, seed) is READY:
            self.add_a_good_one(name, seed, promote)
            return
        source = self.workshop.source(seed)
        self.refused(NoAdapterCapacity, self.library.add(name, source, actor="operator", promote=promote))
        self.after_entering(name, seed, promote=promote)

    @rule(name=NAMES, weights=WEIGHTS)
    def promote_or_split(self, name: AdapterName, weights: dict[int, float]) -> None:
        targets = {self.digest(seed): weight for seed, weight in weights.items()}
        change = self.library.set_alias(name, targets, actor="operator")
        model = self.model.get(name)
        if model is None:
            self.refused(AdapterNotFound, change)
        elif model.pinned and self.pins_besides(name) + len(targets) > MOST_PINS:
            self.refused(PinLimit, change)
        elif not set(targets) <= set(model.states):
            self.refused(AdapterError, change)
        elif not model.can_serve(targets):
            self.refused(VersionNotReady, change)
        else:
            self.run(change)
            model.lead_to(targets)

    @rule(name=NAMES)
    def roll_back(self, name: AdapterName) -> None:
        model, change = self.model.get(name), self.library.rollback(name, actor="operator")
        if model is None:
            self.refused(AdapterNotFound, change)
            return
        history = list(model.history)
        while history:
            targets = history.pop()
            if shares(targets) != shares(model.targets) and model.can_serve(targets):
                self.run(change)
                model.history, model.targets = history, targets
                return
        self.refused(NothingToRollBack, change)

    @rule(name=NAMES, pinned=st.booleans())
    def pin(self, name: AdapterName, pinned: bool) -> None:
        model, change = self.model.get(name), self.library.pin(name, pinned=pinned, actor="operator")
        if model is None:
            self.refused(AdapterNotFound, change)
        elif pinned and self.pins_besides(name) + len(model.targets) > MOST_PINS:
            self.refused(PinLimit, change)
        else:
            self.run(change)
            model.pinned = pinned

    @rule(name=NAMES, seed=SEEDS, and_then=st.booleans())
    def quarantine(self, name: AdapterName, seed: int, and_then: bool) -> None:
        digest = self.digest(seed)

        async def quarantined() -> None:
            self.library.quarantine(VersionId(name, digest), "corrupt")
            if and_then and self.model.get(name):  # before it can be in the registry
                await self.library.pin(name, pinned=False, actor="operator")

        self.run(quarantined())
        model = self.model.get(name)
        if model and model.states.get(digest) is READY:
            model.states[digest] = QUARANTINED
            model.targets = {other: weight for other, weight in model.targets.items() if other != digest}
        if model and and_then:
            model.pinned = False

    @rule(name=NAMES)
    def remove(self, name: AdapterName) -> None:
        change = self.library.remove(name, actor="operator")
        if name in self.model:
            assert {version.id.digest for version in self.run(change).versions} == set(self.model.pop(name).states)
        else:
            self.refused(AdapterNotFound, change)

    @rule(name=NAMES, seed=SEEDS)
    def remove_version(self, name: AdapterName, seed: int) -> None:
        digest, model = self.digest(seed), self.model.get(name)
        change = self.library.remove_version(VersionId(name, digest), actor="operator")
        if model is None:
            self.refused(AdapterNotFound, change)
        elif digest not in model.states:
            self.refused(VersionNotFound, change)
        elif digest in model.targets:
            self.refused(VersionInUse, change)
        else:
            self.run(change)
            del model.states[digest], model.wishes[digest]
            if not model.states:
                del self.model[name]

    @rule(found=st.sampled_from([PROOF, SILENT]))
    def restart(self, found: Any) -> None:
        self.open()
        self.engine.verdict = found
        self.run(self.library.resume())
        for model in (self.model[name] for name in sorted(self.model)):
            unproven = [version for version in model.states if model.states[version] is PROVING]
            for digest in sorted(unproven, key=self.age):
                model.states[digest] = READY if found is PROOF else REJECTED
                if found is PROOF and model.wishes[digest]:
                    self.lead_to(model, digest)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_step_that_does_not_exist_is_refused(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        digest = data.draw(st.sampled_from(sorted(self.model[name].states)))
        state = self.model[name].states[digest]
        target = data.draw(st.sampled_from([other for other in VersionState if not state.can_become(other)]))
        by = self.library.changes.by("operator")
        try:
            self.library.registry.conclude(VersionId(name, digest), target, by)
        except VersionNotReady:
            return
        raise AssertionError(f"{state} became {target}")

    @invariant()
    def memory_tells_what_the_registry_tells(self) -> None:
        assert self.library.catalogue.adapters() == self.library.registry.snapshot()

    @invariant()
    def the_registry_is_as_it_should_be(self) -> None:
        found = {record.name: record for record in self.library.registry.snapshot()}
        assert found.keys() == self.model.keys()
        for name, model in self.model.items():
            assert {version.id.digest: version.state for version in found[name].versions} == model.states
            assert (found[name].targets, found[name].pinned) == (model.targets, model.pinned)

    @invariant()
    def names_lead_to_what_is_ready_and_nothing_else_is_served(self) -> None:
        for record in self.library.catalogue.adapters():
            served = {self.resolved(record.name, str(user)) for user in range(5)} - {None}
            assert served <= {VersionId(record.name, digest) for digest in record.targets}
            assert bool(served) == bool(record.targets)
            for version in record.versions:
                assert version.state is READY or not version.weight
                assert (self.resolved(str(version.id)) is not None) == (version.state is READY)

    @invariant()
    def the_store_holds_what_is_registered(self) -> None:
        digests = {
            version.manifest.digest for record in self.library.registry.snapshot() for version in record.versions
        }
        assert self.workshop.contents() == digests

    @invariant()
    def the_audit_explains_everything(self) -> None:
        found = summary(self.library.registry.snapshot())
        assert replayed(self.library.registry.audit(None, 100_000)[::-1]) == found

    def state(self, name: AdapterName, seed: int) -> VersionState | None:
        model = self.model.get(name)
        return model.states.get(self.digest(seed)) if model else None

    def pins_besides(self, name: AdapterName) -> int:
        return sum(len(model.targets) for other, model in self.model.items() if model.pinned and other != name)

    def age(self, digest: Digest) -> tuple[float, Digest]:
        found = (v for record in self.library.registry.snapshot() for v in record.versions if v.id.digest == digest)
        return next(found).created_at, digest

    def resolved(self, name: str, user: str | None = None) -> VersionId | None:
        try:
            return self.library.catalogue.resolve(name, user)
        except VersionNotReady:
            return None


TestOperators = Operators.TestCase
TestOperators.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
