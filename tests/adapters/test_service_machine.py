"""Random sequences of operations: resolver, registry, store and audit log agree, and only READY versions are served."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
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
from loramux_adapters.registry.transaction import ChangedBy, traffic_shares
from tests.helpers.adapter_services import NO_EFFECT, ServiceFactory
from tests.helpers.audit_replay import replay, summary
from tests.helpers.registry_records import EFFECT

PROVING, READY = VersionState.CHECKING, VersionState.READY
REJECTED, QUARANTINED = VersionState.REJECTED, VersionState.QUARANTINED
NAMES = st.sampled_from([AdapterName("tone"), AdapterName("ft:tiny/org:intent"), AdapterName("b")])
SEEDS = st.integers(0, 3)
WEIGHTS = st.dictionaries(SEEDS, st.sampled_from([0.01, 1.0, 95.0]), min_size=1)
MAX_PINS = 2


@dataclass
class Model:
    """The expected state of one adapter."""

    states: dict[Digest, VersionState] = field(default_factory=dict)
    promotions: dict[Digest, bool] = field(default_factory=dict)
    targets: dict[Digest, float] = field(default_factory=dict)
    history: list[dict[Digest, float]] = field(default_factory=list)
    pinned: bool = False

    def set_targets(self, targets: Mapping[Digest, float]) -> None:
        if self.targets and traffic_shares(self.targets) != traffic_shares(targets):
            self.history.append(self.targets)
        self.targets = dict(targets)

    def can_serve(self, targets: Mapping[Digest, float]) -> bool:
        return all(self.states.get(digest) is READY for digest in targets)


class Operators(RuleBasedStateMachine):
    """The operations on one server, with restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp())
        self.factory = ServiceFactory(self.root, capacity=MAX_PINS + 1)
        self.digests: dict[int, Digest] = {}
        self.model: dict[AdapterName, Model] = {}
        self.open()

    def teardown(self) -> None:
        self.run(self.service.close())
        self.runner.close()
        self.factory.close()
        shutil.rmtree(self.root)

    def open(self) -> None:
        async def opened() -> None:
            self.service, self.engine = self.factory.open()

        self.run(opened())

    def run(self, work: Awaitable[Any]) -> Any:
        async def settled() -> Any:
            try:
                return await work
            finally:
                await self.service.wait_until_idle() if hasattr(self, "service") else None

        return self.runner.run(settled())

    def refused(self, kind: type[AdapterError], work: Awaitable[Any]) -> None:
        try:
            self.run(work)
        except AdapterError as error:
            assert isinstance(error, kind), error
        else:
            raise AssertionError(f"not refused with {kind.__name__}")

    def digest(self, seed: int) -> Digest:
        """Return the digest of a content, or an unknown digest before it was first added."""
        return self.digests.get(seed, Digest(f"{seed:012x}"))

    def after_adding(self, name: AdapterName, seed: int, *, promote: bool) -> Model:
        """Update the model for accepted content whose effect has not been checked yet."""
        model = self.model.setdefault(name, Model())
        self.digests.update({seed: self.newest(name, seed)})
        digest = self.digests[seed]
        before = model.states.get(digest)
        if before is not READY:
            model.promotions[digest] = promote or (before is PROVING and model.promotions[digest])
            model.states[digest] = PROVING
        return model

    def newest(self, name: AdapterName, seed: int) -> Digest:
        """Return the digest that the content of `seed` was registered with."""
        if seed in self.digests:
            return self.digests[seed]
        known = set(self.digests.values())
        versions = self.service.registry.get(name).versions
        return next(version.id.digest for version in versions if version.id.digest not in known)

    def set_targets(self, model: Model, digest: Digest) -> None:
        model.set_targets({digest: 1.0})

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def add_a_valid_version(self, name: AdapterName, seed: int, promote: bool) -> None:
        self.engine.outcome = EFFECT
        added = self.run(self.service.add(name, self.factory.source(seed), actor="operator", promote=promote))
        model = self.after_adding(name, seed, promote=promote)
        was_ready = model.states[added.id.digest] is READY
        if promote if was_ready else model.promotions[added.id.digest]:
            self.set_targets(model, added.id.digest)
        model.states[added.id.digest] = READY

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def add_a_version_without_effect(self, name: AdapterName, seed: int, promote: bool) -> None:
        self.engine.outcome = NO_EFFECT
        if self.state(name, seed) is READY:  # READY versions are not checked again
            self.add_a_valid_version(name, seed, promote)
            return
        source = self.factory.source(seed)
        self.refused(AdapterRejected, self.service.add(name, source, actor="operator", promote=promote))
        model = self.after_adding(name, seed, promote=promote)
        model.states[self.digests[seed]] = REJECTED

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def add_a_version_that_can_t_be_checked_now(self, name: AdapterName, seed: int, promote: bool) -> None:
        self.engine.outcome = NoAdapterCapacity("full")
        if self.state(name, seed) is READY:
            self.add_a_valid_version(name, seed, promote)
            return
        source = self.factory.source(seed)
        self.refused(NoAdapterCapacity, self.service.add(name, source, actor="operator", promote=promote))
        self.after_adding(name, seed, promote=promote)

    @rule(name=NAMES, weights=WEIGHTS)
    def promote_or_split(self, name: AdapterName, weights: dict[int, float]) -> None:
        targets = {self.digest(seed): weight for seed, weight in weights.items()}
        change = self.service.set_alias(name, targets, actor="operator")
        model = self.model.get(name)
        if model is None:
            self.refused(AdapterNotFound, change)
        elif model.pinned and self.other_pins(name) + len(targets) > MAX_PINS:
            self.refused(PinLimit, change)
        elif not set(targets) <= set(model.states):
            self.refused(AdapterError, change)
        elif not model.can_serve(targets):
            self.refused(VersionNotReady, change)
        else:
            self.run(change)
            model.set_targets(targets)

    @rule(name=NAMES)
    def roll_back(self, name: AdapterName) -> None:
        model, change = self.model.get(name), self.service.roll_back(name, actor="operator")
        if model is None:
            self.refused(AdapterNotFound, change)
            return
        history = list(model.history)
        while history:
            targets = history.pop()
            if traffic_shares(targets) != traffic_shares(model.targets) and model.can_serve(targets):
                self.run(change)
                model.history, model.targets = history, targets
                return
        self.refused(NothingToRollBack, change)

    @rule(name=NAMES, pinned=st.booleans())
    def pin(self, name: AdapterName, pinned: bool) -> None:
        model, change = self.model.get(name), self.service.pin(name, pinned=pinned, actor="operator")
        if model is None:
            self.refused(AdapterNotFound, change)
        elif pinned and self.other_pins(name) + len(model.targets) > MAX_PINS:
            self.refused(PinLimit, change)
        else:
            self.run(change)
            model.pinned = pinned

    @rule(name=NAMES, seed=SEEDS, and_then=st.booleans())
    def quarantine(self, name: AdapterName, seed: int, and_then: bool) -> None:
        digest = self.digest(seed)

        async def quarantined() -> None:
            self.service.quarantine(VersionId(name, digest), "corrupt")
            if and_then and self.model.get(name):  # before the quarantine can be in the registry
                await self.service.pin(name, pinned=False, actor="operator")

        self.run(quarantined())
        model = self.model.get(name)
        if model and model.states.get(digest) is READY:
            model.states[digest] = QUARANTINED
            model.targets = {other: weight for other, weight in model.targets.items() if other != digest}
        if model and and_then:
            model.pinned = False

    @rule(name=NAMES)
    def remove(self, name: AdapterName) -> None:
        change = self.service.remove(name, actor="operator")
        if name in self.model:
            assert {version.id.digest for version in self.run(change).versions} == set(self.model.pop(name).states)
        else:
            self.refused(AdapterNotFound, change)

    @rule(name=NAMES, seed=SEEDS)
    def remove_version(self, name: AdapterName, seed: int) -> None:
        digest, model = self.digest(seed), self.model.get(name)
        change = self.service.remove_version(VersionId(name, digest), actor="operator")
        if model is None:
            self.refused(AdapterNotFound, change)
        elif digest not in model.states:
            self.refused(VersionNotFound, change)
        elif digest in model.targets:
            self.refused(VersionInUse, change)
        else:
            self.run(change)
            del model.states[digest], model.promotions[digest]
            if not model.states:
                del self.model[name]

    @rule(found=st.sampled_from([EFFECT, NO_EFFECT]))
    def restart(self, found: Any) -> None:
        self.open()
        self.engine.outcome = found
        self.run(self.service.resume_checks())
        for model in (self.model[name] for name in sorted(self.model)):
            unchecked = [version for version in model.states if model.states[version] is PROVING]
            for digest in sorted(unchecked, key=self.age):
                model.states[digest] = READY if found is EFFECT else REJECTED
                if found is EFFECT and model.promotions[digest]:
                    self.set_targets(model, digest)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_transition_that_does_not_exist_is_refused(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        digest = data.draw(st.sampled_from(sorted(self.model[name].states)))
        state = self.model[name].states[digest]
        target = data.draw(st.sampled_from([other for other in VersionState if not state.can_become(other)]))
        by = ChangedBy("operator", 1.0)
        try:
            self.service.registry.set_state(VersionId(name, digest), target, by)
        except VersionNotReady:
            return
        raise AssertionError(f"{state} became {target}")

    @invariant()
    def the_resolver_agrees_with_the_registry(self) -> None:
        assert self.service.resolver.adapters() == self.service.registry.snapshot()

    @invariant()
    def the_registry_agrees_with_the_model(self) -> None:
        found = {record.name: record for record in self.service.registry.snapshot()}
        assert found.keys() == self.model.keys()
        for name, model in self.model.items():
            assert {version.id.digest: version.state for version in found[name].versions} == model.states
            assert (found[name].targets, found[name].pinned) == (model.targets, model.pinned)

    @invariant()
    def only_ready_versions_are_served(self) -> None:
        for record in self.service.resolver.adapters():
            served = {self.resolved(record.name, str(user)) for user in range(5)} - {None}
            assert served <= {VersionId(record.name, digest) for digest in record.targets}
            assert bool(served) == bool(record.targets)
            for version in record.versions:
                assert version.state is READY or not version.weight
                assert (self.resolved(str(version.id)) is not None) == (version.state is READY)

    @invariant()
    def the_store_contains_the_registered_versions(self) -> None:
        digests = {
            version.manifest.digest for record in self.service.registry.snapshot() for version in record.versions
        }
        assert self.factory.contents() == digests

    @invariant()
    def the_audit_log_explains_everything(self) -> None:
        found = summary(self.service.registry.snapshot())
        assert replay(self.service.registry.audit(None, 100_000)[::-1]) == found

    def state(self, name: AdapterName, seed: int) -> VersionState | None:
        model = self.model.get(name)
        return model.states.get(self.digest(seed)) if model else None

    def other_pins(self, name: AdapterName) -> int:
        return sum(len(model.targets) for other, model in self.model.items() if model.pinned and other != name)

    def age(self, digest: Digest) -> tuple[float, Digest]:
        found = (v for record in self.service.registry.snapshot() for v in record.versions if v.id.digest == digest)
        return next(found).created_at, digest

    def resolved(self, name: str, user: str | None = None) -> VersionId | None:
        try:
            return self.service.resolver.resolve(name, user)
        except VersionNotReady:
            return None


class ManyOperators(Operators):
    """The same operations in many more and longer sequences."""


TestOperators = Operators.TestCase
TestOperators.settings = settings(max_examples=4, stateful_step_count=20)

TestManyOperators = pytest.mark.slow(ManyOperators.TestCase)
TestManyOperators.settings = settings(max_examples=40, stateful_step_count=30)
