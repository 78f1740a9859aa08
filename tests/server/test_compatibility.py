"""A data folder written by release 0.1.0 opens, migrates, answers the same and serves."""

import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from loramux_server.base_model import ResolvedBase
from loramux_server.database import newest_revision
from tests.conftest import REPOSITORY
from tests.helpers.tiny_server import TinyServer, tiny_server

FIXTURE = REPOSITORY / "tests" / "fixtures" / "data-folder-0.1.0"
ANSWERS: dict[str, Any] = json.loads((FIXTURE / "answers.json").read_text(encoding="utf-8"))
KEY = "key-of-the-fixture"
PRICES = {
    "base": {"input": 1, "output": 2},
    "adapter": {"multiplier": 0.5, "training": 3},
    "gpu_hour": 3600,
    "storage_gb_month": 1000,
}
FOREVER = 100_000.0
"""Days; the folder's usage is from 2025 and must not expire while the tests look at it."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    root = tmp_path_factory.mktemp("old")
    shutil.copytree(FIXTURE / "data", root / "data")
    kept: dict[str, Any] = {"usage_record_days": FOREVER, "usage_rollup_days": FOREVER}
    async with tiny_server(root, tiny_base, keys=(KEY,), prices=PRICES, **kept) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the fields of `old` that are missing or different in `new`; additional fields are allowed."""
    if isinstance(old, dict) and isinstance(new, dict):
        missing = [f"{where}.{key} is missing" for key in old if key not in new]
        return missing + [
            line for key in old if key in new for line in differences(old[key], new[key], f"{where}.{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for number, (a, b) in pairs for line in differences(a, b, f"{where}[{number}]")]
    return [] if old == new else [f"{where}: {old!r} became {new!r}"]


def without_live_comparisons(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Change a usage report of 0.1.0 to what is right: no ratios of live traffic, no quantiles of few requests.

    An average cost leaves out refused requests, which cost nothing; jobs without a price cost an unknown amount.
    """
    expected["training"]["price_list_usd"] = None
    for old, new in zip([*expected["groups"], expected["total"]], [*found["groups"], found["total"]], strict=True):
        old |= {"against_base": None, "break_even": None}
        for name, quantiles in old["latency"].items():
            count = new["latency"][name]["count"]
            quantiles |= {each: None for each, least in (("p95", 20), ("p99", 100)) if count < least}
        charged = old["requests"] - old["outcomes"].get("refused", 0)
        for cost in old["cost"].values():
            cost["usd_per_request"] = cost["usd"] / charged if charged else None


async def test_its_database_is_migrated_to_the_newest_revision(tiny: TinyServer) -> None:
    database = sa.create_engine(f"sqlite:///{tiny.settings.data_dir}/loramux.sqlite3")
    with database.connect() as connection:
        revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    assert revision == newest_revision()


@pytest.mark.parametrize("path", ANSWERS)
async def test_it_answers_as_before(tiny: TinyServer, path: str) -> None:
    answer = await tiny.http.get(path)
    assert answer.status_code == 200, answer.text
    found, expected = answer.json(), ANSWERS[path]
    if path == "/v1/models":  # the base is as old as the process
        for models in (found, expected):
            models["data"][0]["created"] = 0
    if path.startswith("/v1/fine_tuning/jobs"):
        for job in expected.get("data", [expected]):
            if job.get("status") in {"cancelled", "paused"}:
                job["loramux"]["seconds_left"] = None  # was that of its last step, as if it went on
            if "loramux" in job:
                job["loramux"]["cost"]["price_list"] = None  # the price list has no price of training
    if path.startswith("/admin/usage"):
        without_live_comparisons(expected, found)
    assert differences(expected, found) == []


async def test_the_recorded_answers_cover_adapters_usage_jobs_and_files() -> None:
    adapters = {adapter["name"] for adapter in ANSWERS["/admin/adapters"]["data"]}
    assert {"tone", "team/order", "uploaded", "flat"} <= adapters
    assert [job["status"] for job in ANSWERS["/v1/fine_tuning/jobs"]["data"]] == ["cancelled", "paused", "succeeded"]
    usage = [answer for path, answer in ANSWERS.items() if path.startswith("/admin/usage")]
    assert {answer["total"]["requests"] for answer in usage} == {36}
    assert {answer["training"]["jobs"] for answer in usage} == {3}


@pytest.mark.parametrize("file", [file["id"] for file in ANSWERS["/v1/files"]["data"]])
async def test_its_files_can_be_downloaded(tiny: TinyServer, file: str) -> None:
    answer = await tiny.http.get(f"/v1/files/{file}/content")
    assert answer.content == (FIXTURE / "data" / "files" / file).read_bytes()


async def test_its_adapters_serve(tiny: TinyServer) -> None:
    names = [model["id"] for model in ANSWERS["/v1/models"]["data"]]
    for name in names:
        answer = await tiny.chat(name)
        assert answer.model == name if name == "tiny" else answer.model.startswith(f"{name}@")
        assert answer.choices[0].message.content
    versions = [version for adapter in ANSWERS["/admin/adapters"]["data"] for version in adapter["versions"]]
    for version in versions:
        answer = await tiny.http.post("/v1/completions", json={"model": version["id"], "prompt": "x", "max_tokens": 2})
        assert answer.status_code == (200 if version["state"] == "ready" else 409), answer.text


async def test_its_adapters_can_be_administered(tiny: TinyServer) -> None:
    old, new = (version["id"] for version in ANSWERS["/admin/adapters/tone"]["versions"])
    body = {"targets": [{"version": new}]}
    promoted = await tiny.http.put("/admin/adapters/tone/alias", json=body)
    assert [version["weight"] for version in promoted.json()["versions"]] == [0, 1]
    assert (await tiny.chat("tone")).model == new
    rolled_back = await tiny.http.post("/admin/adapters/tone/rollback")
    assert [version["weight"] for version in rolled_back.json()["versions"]] == [3, 1]
    assert (await tiny.http.delete(f"/admin/adapters/tone/versions/{old.partition('@')[2]}")).status_code == 409
    added = await tiny.add("tone", seed=99)
    assert (await tiny.chat("tone")).model == added


async def test_its_jobs_can_be_cancelled_and_new_ones_made(tiny: TinyServer) -> None:
    jobs: dict[str, Any] = {job["status"]: job for job in ANSWERS["/v1/fine_tuning/jobs"]["data"]}
    cancelled = await tiny.client.fine_tuning.jobs.cancel(jobs["paused"]["id"])
    assert cancelled.status == "cancelled"
    estimate = {"model": "tiny", "training_file": jobs["succeeded"]["training_file"]}
    answer = await tiny.http.post("/admin/fine_tuning/estimate", json=estimate)
    assert answer.json()["report"]["examples"] == 12
