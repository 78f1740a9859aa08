"""`/v1/uploads` with the official client."""

import hashlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
CONTENT = b"".join(json.dumps(LINE).encode() + b"\n" for _ in range(10))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    root = tmp_path_factory.mktemp("uploads")
    async with tiny_server(root, tiny_base, max_body_bytes=100_000) as tiny:
        yield tiny


async def create(tiny: TinyServer, **changes: Any) -> Any:
    wanted: dict[str, Any] = {"bytes": len(CONTENT), "filename": "train.json", "purpose": "fine-tune"}
    return await tiny.client.uploads.create(**wanted | {"mime_type": "text/jsonl"} | changes)


async def test_the_client_uploads_a_file_in_parts(tiny: TinyServer) -> None:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    done = await tiny.client.uploads.upload_file_chunked(
        file=CONTENT, filename="train", bytes=len(CONTENT), mime_type="text/jsonl", purpose="fine-tune",
        part_size=100, md5=md5,
    )  # fmt: skip
    assert (done.status, done.object, done.filename, done.bytes) == ("completed", "upload", "train", len(CONTENT))
    assert done.file is not None
    assert done.file == await tiny.client.files.retrieve(done.file.id)
    assert (await tiny.client.files.content(done.file.id)).content == CONTENT
    report = (await tiny.http.get(f"/v1/files/{done.file.id}/report")).json()["report"]
    assert report["examples"] == 10


async def test_an_upload_s_file_expires_if_it_says_so(tiny: TinyServer) -> None:
    upload = await create(tiny, expires_after={"anchor": "created_at", "seconds": 3600})
    assert upload.status == "pending"
    assert upload.expires_at - upload.created_at == 3600  # of the upload itself
    part = await tiny.client.uploads.parts.create(upload.id, data=io.BytesIO(CONTENT))
    assert (part.object, part.upload_id) == ("upload.part", upload.id)
    done = await tiny.client.uploads.complete(upload.id, part_ids=[part.id])
    assert done.file is not None
    assert done.file.expires_at is not None
    assert done.file.expires_at - done.file.created_at == 3600


async def test_parts_may_be_larger_than_other_bodies(tiny: TinyServer) -> None:
    upload = await create(tiny, bytes=200_000)
    part = await tiny.client.uploads.parts.create(upload.id, data=b"x" * 200_000)
    with pytest.raises(openai.BadRequestError, match=r"train\.json is not a valid training file"):
        await tiny.client.uploads.complete(upload.id, part_ids=[part.id])
    assert (await tiny.client.uploads.cancel(upload.id)).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="cancelled"):
        await tiny.client.uploads.parts.create(upload.id, data=b"x")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"bytes": 0}, "bytes"),
        ({"bytes": 512 * 10**6 + 1}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "last_active_at", "seconds": 3600}}, "expires_after.anchor"),
    ],
)
async def test_an_upload_that_can_t_be_is_refused(tiny: TinyServer, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await create(tiny, **changes)
    assert refused.value.param == param


async def test_a_completion_is_checked(tiny: TinyServer) -> None:
    upload = await create(tiny)
    part = await tiny.client.uploads.parts.create(upload.id, data=CONTENT)
    bodies: list[dict[str, Any]] = [
        {"part_ids": []},
        {"part_ids": [part.id], "md5": "no"},
        {"part_ids": [part.id], "x": 1},
    ]
    for body in [*bodies, {}]:
        answer = await tiny.http.post(f"/v1/uploads/{upload.id}/complete", json=body)
        assert answer.status_code == 400
    with pytest.raises(openai.BadRequestError, match="send the parts that differ again") as refused:
        await tiny.client.uploads.complete(upload.id, part_ids=[part.id], md5="0" * 32)
    assert refused.value.param == "md5"
    answer = await tiny.http.post(f"/v1/uploads/{upload.id}/parts", data={"data": "text"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "data")


@pytest.mark.parametrize("upload", ["upload-nothing", "..%2F..%2Fx", "%00"])
async def test_unknown_uploads_are_not_found(tiny: TinyServer, upload: str) -> None:
    path = f"/v1/uploads/{upload}"
    answers = [
        await tiny.http.post(f"{path}/cancel"),
        await tiny.http.post(f"{path}/complete", json={"part_ids": ["part-1"]}),
        await tiny.http.post(f"{path}/parts", files={"data": ("x", b"x")}),
    ]
    assert [answer.status_code for answer in answers] == [404] * 3


async def test_uploads_need_an_admin_key(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with tiny_server(tmp_path_factory.mktemp("keys"), tiny_base, keys=("admin-1",)) as closed:
        assert (await closed.http.post("/v1/uploads", json={})).status_code == 401
