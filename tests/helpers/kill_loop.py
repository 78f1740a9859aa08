"""Kills a process that changes adapters, at random moments: `python -m tests.helpers.kill_loop FOLDER KILLS SEED`.

It is a program of its own because it forks, so that modules are imported once and not for each kill.
"""

import asyncio
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import AdapterName, VersionState
from loramux_adapters.registry.registry import Registry
from loramux_adapters.resolver import AdapterResolver
from loramux_adapters.service import AdapterService
from tests.helpers.adapter_files import BASE
from tests.helpers.adapter_services import NO_EFFECT, FakeEngine, ServiceFactory
from tests.helpers.audit_replay import replay, summary
from tests.helpers.registry_records import EFFECT

NAMES = [AdapterName("tone"), AdapterName("intent")]
MAX_LIFE_SECONDS = 0.15


def main(root: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - reproducible
    factory = ServiceFactory(root)
    for content in range(4):
        factory.source(content)
    between_commit_and_response = 0
    for number in range(kills):
        acknowledged, reader = run_and_kill(factory, rng.uniform(0, MAX_LIFE_SECONDS), seed * kills + number)
        between_commit_and_response += acknowledged < check(factory, acknowledged)
        os.close(reader)
    print(f"{kills} kills, {between_commit_and_response} of them between a commit and its response")  # noqa: T201


def run_and_kill(factory: ServiceFactory, life: float, seed: int) -> tuple[int, int]:
    """Let a process work for `life` seconds; returns the number of audit rows that it last acknowledged."""
    factory.database.dispose()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        asyncio.run(operate(factory, writer, random.Random(seed)))  # noqa: S311
    os.close(writer)
    acknowledged = [int.from_bytes(os.read(reader, 8))]  # it has started
    time.sleep(life)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while row := os.read(reader, 8):
        acknowledged.append(int.from_bytes(row))
    return acknowledged[-1], reader


async def operate(factory: ServiceFactory, writer: int, rng: random.Random) -> None:
    """Start up, then make one change after the other until the process is killed."""
    VersionStore(factory.root / "store").clean_staging()
    service, engine = factory.open()
    rows = len(service.registry.audit(None, 1_000_000))
    os.write(writer, rows.to_bytes(8))
    await service.resume_checks()
    while True:
        await service.wait_until_idle()
        os.write(writer, len(service.registry.audit(None, 1_000_000)).to_bytes(8))
        with suppress(AdapterError):
            await change(service, engine, factory, rng)


async def change(service: AdapterService, engine: FakeEngine, factory: ServiceFactory, rng: random.Random) -> None:
    """Make a random change, valid or not."""
    name, seed = rng.choice(NAMES), rng.randrange(4)
    record = service.resolver.get(name)
    versions = [version.id for version in record.versions] if record else []
    match rng.choice(["add", "add", "alias", "rollback", "remove", "remove version", "quarantine", "pin"]):
        case "add":
            engine.outcome = rng.choice([EFFECT, EFFECT, NO_EFFECT])
            await service.add(name, factory.source(seed), actor="operator")
        case "alias" if versions:
            targets = rng.sample(versions, rng.randint(1, len(versions)))
            await service.set_alias(name, {version.digest: 1.0 for version in targets}, actor="operator")
        case "rollback":
            await service.roll_back(name, actor="operator")
        case "remove" if rng.random() < 0.5:
            await service.remove(name, actor="operator")
        case "remove version" if versions:
            await service.remove_version(rng.choice(versions), actor="operator")
        case "quarantine" if versions:
            service.quarantine(rng.choice(versions), "corrupt")
        case "pin":
            await service.pin(name, pinned=rng.random() < 0.5, actor="operator")


def check(factory: ServiceFactory, acknowledged: int) -> int:
    """Check that everything is consistent and no acknowledged change lost; returns the number of audit rows."""
    registry, store = Registry(factory.database), VersionStore(factory.root / "store")
    store.clean_staging()
    assert list((factory.root / "store" / "staging").iterdir()) == []
    records, audit = registry.snapshot(), registry.audit(None, 1_000_000)
    assert len(audit) >= acknowledged
    assert summary(records) == replay(audit[::-1])
    resolver = AdapterResolver(records, store, BASE.spec)
    for version in (version for record in records for version in record.versions):
        store.verify(version.manifest.digest)
        resolver.verify(version.id)
        assert version.state is VersionState.READY or not version.weight
    return len(audit)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
