import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import AdapterExists, AdapterNotFound, StoreError
from loramux_adapters.records import AdapterName, FileFacts, Manifest, VersionId, parse_adapter_name
from loramux_adapters.registry import Registry, VersionState
from loramux_server import db
from tests.adapters.building import BASE

SOURCE = {"type": "folder", "path": "somewhere"}
TONE, INTENT = parse_adapter_name("tone"), parse_adapter_name("intent")


def manifest(digest: str) -> Manifest:
    facts = {"rank": 4, "alpha": 8.0, "use_rslora": False, "scaling": 2.0, "parameters": 10, "weights_bytes": 40}
    return Manifest(
        digest=digest.ljust(64, "0"),
        base=BASE,
        target_modules=("q_proj",),
        layers=(0,),
        dtypes=("F32",),
        files={"adapter_config.json": FileFacts(bytes=1, sha256="0" * 64)},
        **facts,
    )


def leads_to(registry: Registry, name: AdapterName) -> list[tuple[VersionId, float]]:
    return [(version.id, version.weight) for version in registry.get(name).versions if version.weight]


def test_the_first_version_is_what_the_name_leads_to(registry: Registry) -> None:
    version = registry.add_version(TONE, manifest("a1"), SOURCE, now=10.0)
    assert version == manifest("a1").version_of(TONE)
    record = registry.get(TONE)
    assert (record.name, record.created_at) == (TONE, 10.0)
    (stored,) = record.versions
    assert (stored.id, stored.manifest, stored.source) == (version, manifest("a1"), SOURCE)
    assert (stored.state, stored.created_at, stored.weight) == (VersionState.READY, 10.0, 1.0)


def test_a_later_version_takes_the_name_over_and_the_older_stays(registry: Registry) -> None:
    first = registry.add_version(TONE, manifest("a1"), SOURCE, now=10.0)
    second = registry.add_version(TONE, manifest("a2"), SOURCE, now=20.0)
    assert [version.id for version in registry.get(TONE).versions] == [first, second]
    assert leads_to(registry, TONE) == [(second, 1.0)]
    assert registry.get(TONE).created_at == 10.0


def test_the_same_content_again_is_the_same_version_and_gets_the_name_back(registry: Registry) -> None:
    first = registry.add_version(TONE, manifest("a1"), SOURCE, now=10.0)
    registry.add_version(TONE, manifest("a2"), SOURCE, now=20.0)
    assert registry.add_version(TONE, manifest("a1"), SOURCE, now=30.0) == first
    assert leads_to(registry, TONE) == [(first, 1.0)]
    assert len(registry.get(TONE).versions) == 2


def test_the_same_content_may_serve_under_two_names(registry: Registry) -> None:
    registry.add_version(TONE, manifest("a1"), SOURCE, now=1.0)
    registry.add_version(INTENT, manifest("a1"), SOURCE, now=1.0)
    assert [record.name for record in registry.snapshot()] == [INTENT, TONE]
    assert leads_to(registry, TONE) == [(manifest("a1").version_of(TONE), 1.0)]


def test_other_content_with_the_same_short_digest_is_refused_and_changes_nothing(registry: Registry) -> None:
    registry.add_version(TONE, manifest("a" * 12), SOURCE, now=1.0)
    before = registry.snapshot()
    with pytest.raises(AdapterExists):
        registry.add_version(TONE, manifest("a" * 13), SOURCE, now=2.0)
    assert registry.snapshot() == before


def test_a_removed_adapter_is_gone_with_its_versions_and_can_come_back(registry: Registry) -> None:
    registry.add_version(TONE, manifest("a1"), SOURCE, now=1.0)
    registry.add_version(INTENT, manifest("b1"), SOURCE, now=1.0)
    registry.remove(TONE)
    assert [record.name for record in registry.snapshot()] == [INTENT]
    registry.add_version(TONE, manifest("a2"), SOURCE, now=2.0)
    assert [version.manifest for version in registry.get(TONE).versions] == [manifest("a2")]


def test_an_unknown_adapter_is_an_error_that_names_it(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound, match="tone"):
        registry.get(TONE)
    with pytest.raises(AdapterNotFound, match="tone"):
        registry.remove(TONE)


def test_names_are_told_apart_by_case(registry: Registry) -> None:
    registry.add_version(TONE, manifest("a1"), SOURCE, now=1.0)
    with pytest.raises(AdapterNotFound):
        registry.get(parse_adapter_name("Tone"))


def test_versions_added_at_once_all_stay_and_the_name_leads_to_one(registry: Registry) -> None:
    def add(number: int) -> VersionId:
        return registry.add_version(TONE, manifest(f"{number:012x}"), SOURCE, now=float(number))

    with ThreadPoolExecutor(8) as pool:
        added = set(pool.map(add, range(40)))
    assert {version.id for version in registry.get(TONE).versions} == added
    assert len(leads_to(registry, TONE)) == 1


def test_a_database_that_fails_is_an_error_that_names_no_detail_of_it(tmp_path: Path) -> None:
    engine = db.create_engine(f"sqlite:///{tmp_path / 'without-tables'}")
    registry = Registry(engine)
    for ask in (
        registry.snapshot,
        lambda: registry.get(TONE),
        lambda: registry.remove(TONE),
        lambda: registry.add_version(TONE, manifest("a1"), SOURCE, now=1.0),
    ):
        with pytest.raises(StoreError, match=r"^The adapter registry can't be read or written\.$"):
            ask()
    engine.dispose()


def test_ten_thousand_adapters_are_listed_within_seconds(registry: Registry) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"adapters": [], "versions": [], "aliases": []}
    facts = {"manifest": manifest("a").model_dump_json(), "source": SOURCE, "state": "ready", "created_at": 1.0}
    for number in range(10_000):
        key = {"name": f"adapter-{number}", "digest": "a".ljust(12, "0")}
        rows["adapters"].append({"name": key["name"], "created_at": 1.0})
        rows["versions"].append(key | facts)
        rows["aliases"].append(key | {"weight": 1.0})
    with registry._engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(db.TABLES[0].tables[table].insert(), values)
    started = time.process_time()
    assert len(registry.snapshot()) == 10_000
    assert time.process_time() - started < 2  # 0.5 s on a busy machine.
