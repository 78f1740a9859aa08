"""Operators in a process that is killed at any moment, again and again: `python killing.py FOLDER KILLS SEED`.

A program of its own, because it forks: what is imported once need not be imported for each kill.
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
from loramux_adapters.intake.store import Store
from loramux_adapters.models import AdapterName, VersionState
from loramux_adapters.registry.registry import Registry
from loramux_adapters.resolver import Catalogue
from loramux_adapters.service import Library
from tests.helpers.adapter_files import BASE
from tests.helpers.adapter_services import SILENT, FakeEngine, Workshop
from tests.helpers.audit_replay import replayed, summary
from tests.helpers.registry_records import PROOF

NAMES = [AdapterName("tone"), AdapterName("intent")]
LONGEST_LIFE = 0.15


def main(root: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - which moments are tried should be known
    workshop = Workshop(root)
    for content in range(4):
        workshop.source(content)
    in_between = 0
    for number in range(kills):
        acknowledged, reader = live_and_die(workshop, chance.uniform(0, LONGEST_LIFE), seed * kills + number)
        in_between += acknowledged < check(workshop, acknowledged)
        os.close(reader)
    print(f"{kills} kills, {in_between} of them between a change and its answer")  # noqa: T201 - what it found out


def live_and_die(workshop: Workshop, life: float, seed: int) -> tuple[int, int]:
    """Let a process work for `life` seconds; returns how many audit rows it had been told of at its end."""
    workshop.database.dispose()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        asyncio.run(operate(workshop, writer, random.Random(seed)))  # noqa: S311
    os.close(writer)
    told = [int.from_bytes(os.read(reader, 8))]  # it has begun
    time.sleep(life)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while row := os.read(reader, 8):
        told.append(int.from_bytes(row))
    return told[-1], reader


async def operate(workshop: Workshop, writer: int, chance: random.Random) -> None:
    """Start, and change one thing after the other until the end."""
    Store(workshop.root / "store").sweep()
    library, engine = workshop.open()
    rows = len(library.registry.audit(None, 1_000_000))
    os.write(writer, rows.to_bytes(8))
    await library.resume()
    while True:
        await library.changes.settled()
        os.write(writer, len(library.registry.audit(None, 1_000_000)).to_bytes(8))
        with suppress(AdapterError):
            await change(library, engine, workshop, chance)


async def change(library: Library, engine: FakeEngine, workshop: Workshop, chance: random.Random) -> None:
    """Do something, possible or not."""
    name, seed = chance.choice(NAMES), chance.randrange(4)
    record = library.catalogue.get(name)
    versions = [version.id for version in record.versions] if record else []
    match chance.choice(["add", "add", "alias", "rollback", "remove", "remove version", "quarantine", "pin"]):
        case "add":
            engine.verdict = chance.choice([PROOF, PROOF, SILENT])
            await library.add(name, workshop.source(seed), actor="operator")
        case "alias" if versions:
            chosen = chance.sample(versions, chance.randint(1, len(versions)))
            await library.set_alias(name, {version.digest: 1.0 for version in chosen}, actor="operator")
        case "rollback":
            await library.rollback(name, actor="operator")
        case "remove" if chance.random() < 0.5:
            await library.remove(name, actor="operator")
        case "remove version" if versions:
            await library.remove_version(chance.choice(versions), actor="operator")
        case "quarantine" if versions:
            library.quarantine(chance.choice(versions), "corrupt")
        case "pin":
            await library.pin(name, pinned=chance.random() < 0.5, actor="operator")


def check(workshop: Workshop, acknowledged: int) -> int:
    """All of it must be sound, and nothing that was acknowledged lost; returns the number of audit rows."""
    registry, store = Registry(workshop.database), Store(workshop.root / "store")
    store.sweep()
    assert list((workshop.root / "store" / "staging").iterdir()) == []
    records, audit = registry.snapshot(), registry.audit(None, 1_000_000)
    assert len(audit) >= acknowledged
    assert summary(records) == replayed(audit[::-1])
    catalogue = Catalogue(records, store, BASE)
    for version in (version for record in records for version in record.versions):
        store.verify(version.manifest.digest)
        catalogue.verify(version.id)
        assert version.state is VersionState.READY or not version.weight
    return len(audit)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
