"""Downloads of versions, on the fake engine."""

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that use names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


def path(version: str) -> str:
    name, _, digest = version.partition("@")
    return f"/admin/adapters/{name}/versions/{digest}/content"


async def test_a_version_is_an_archive_whose_files_have_its_digest(shared: TinyServer) -> None:
    version = await shared.add("ft:tiny/org:tone:1")
    answer = await shared.http.get(path(version))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    digest = version.partition("@")[2]
    assert answer.headers["content-disposition"] == f'attachment; filename="ft-tiny-org-tone-1-{digest}.tar"'
    lines = ""
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            file = tar.extractfile(member)
            assert file is not None
            lines += f"{hashlib.sha256(file.read()).hexdigest()}  {member.name}\n"
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    assert (sha256[:12], f'"{sha256}"') == (digest, answer.headers["etag"])
    assert str(shared.settings.data_dir).encode() not in answer.content


async def test_a_download_goes_on_from_any_byte(shared: TinyServer) -> None:
    version = await shared.add("resumed")
    whole = (await shared.http.get(path(version))).content
    for start in (1, 512, 700, len(whole) - 1):
        rest = await shared.http.get(path(version), headers={"range": f"bytes={start}-"})
        assert (rest.status_code, rest.content) == (206, whole[start:])
        assert rest.headers["content-range"] == f"bytes {start}-{len(whole) - 1}/{len(whole)}"
    for ignored in ("bytes=0-", "bytes=-5", "bytes=1-2", "lines=1-", "bytes=1-,3-", "", f"bytes={'9' * 99}-"):
        answer = await shared.http.get(path(version), headers={"range": ignored})
        assert (answer.status_code, len(answer.content)) == (200, len(whole))
    for beyond in (len(whole), 10**17):
        answer = await shared.http.get(path(version), headers={"range": f"bytes={beyond}-"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (416, "range")
        assert answer.headers["content-range"] == f"bytes */{len(whole)}"


async def test_an_alias_of_the_adapter_works_too(shared: TinyServer) -> None:
    version = await shared.add("owned")
    await shared.http.put("/admin/aliases/old-owned", json={"target": "owned"})
    by_alias = await shared.http.get(path(version.replace("owned", "old-owned")))
    assert by_alias.content == (await shared.http.get(path(version))).content


@pytest.mark.parametrize(
    "name", ["nobody@0123456789ab", "..@0123456789ab", "%2e%2e/x@0123456789ab", "a b@0123456789ab", "owned@zz"]
)
async def test_what_does_not_exist_is_an_error(shared: TinyServer, name: str) -> None:
    assert (await shared.http.get(path(name))).status_code in (400, 404)


async def test_changed_files_are_not_sent(shared: TinyServer) -> None:
    version = await shared.add("changed", 7)
    record = shared.server.adapter_service.resolver.version(version)
    assert record is not None
    weights = shared.server.adapter_service.ingest.store.path(record.manifest.digest) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    answer = await shared.http.get(path(version))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "adapter_store_failed")
    assert str(shared.settings.data_dir) not in answer.text
