"""Registry records without files."""

from typing import Any

from loramux_adapters.models import (
    AdapterName,
    BaseSpec,
    EffectCheck,
    FileInfo,
    Manifest,
    ProbeAnswer,
    VersionId,
    VersionState,
    parse_adapter_name,
)
from loramux_adapters.registry.registry import Registry
from loramux_adapters.registry.transaction import ChangedBy
from loramux_server import database as db
from tests.helpers.adapter_files import BASE

SOURCE = {"type": "folder", "path": "somewhere"}
TONE, INTENT = parse_adapter_name("tone"), parse_adapter_name("intent")
EFFECT = EffectCheck(answers=(ProbeAnswer(prompt="Hi", base="a", adapter="b"),), difference=0.5, noise=0.0, finite=True)


def at(now: float, actor: str = "key_1") -> ChangedBy:
    return ChangedBy(actor, now)


def manifest(digest: str, base: BaseSpec = BASE.spec) -> Manifest:
    facts = {"rank": 4, "alpha": 8.0, "use_rslora": False, "scaling": 2.0, "parameters": 10, "weights_bytes": 40}
    return Manifest(
        digest=digest.ljust(64, "0"),
        base=base,
        target_modules=("q_proj",),
        layers=(0,),
        dtypes=("F32",),
        files={"adapter_config.json": FileInfo(bytes=1, sha256="0" * 64)},
        **facts,
    )


def ready(registry: Registry, name: AdapterName, digest: str, now: float = 1.0, *, promote: bool = True) -> VersionId:
    version = registry.add_version(name, manifest(digest), SOURCE, at(now), promote=promote)
    registry.set_state(version, VersionState.READY, at(now), effect_check=EFFECT)
    return version


def fill(registry: Registry, count: int, base: BaseSpec = BASE.spec) -> None:
    """Insert `count` adapters of one version each directly into the tables."""
    rows: dict[str, list[dict[str, Any]]] = {"adapters": [], "versions": [], "aliases": []}
    facts = {"source": SOURCE, "state": "ready", "created_at": 1.0}
    for number in range(count):
        content = manifest(f"{number:012x}", base)
        key = {"name": f"adapter-{number}", "digest": content.digest[:12]}
        rows["adapters"].append({"name": key["name"], "created_at": 1.0})
        rows["versions"].append(key | facts | {"manifest": content.model_dump_json()})
        rows["aliases"].append(key | {"weight": 1.0})
    with registry._engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(db.TABLES[0].tables[table].insert(), values)
