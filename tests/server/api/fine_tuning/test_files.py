"""`/v1/files` over HTTP: valid files are accepted, 50 invalid ones are refused with line and reason."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "where is it"}
ANSWER = {"role": "assistant", "content": "on its way"}
SYSTEM = {"role": "system", "content": "be brief"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("files"), tiny_base) as tiny:
        yield tiny


def chat(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": list(messages)} | more).encode()


def lines(*given: bytes) -> bytes:
    return b"".join(line + b"\n" for line in given)


GOOD = chat(USER, ANSWER)
TEN = [GOOD] * 10


def third(line: bytes) -> bytes:
    """Return ten lines, all valid but for a different third one."""
    return lines(*TEN[:2], line, *TEN[3:])


def chat_message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


MALFORMED: list[tuple[str, bytes, int, str]] = [
    ("nothing", b"", 1, "empty"),
    ("a newline", b"\n", 1, "the file is empty"),
    ("gzip", gzip.compress(lines(*TEN)), 1, "gzip"),
    ("zip", b"PK\x03\x04rest", 1, "ZIP"),
    ("parquet", b"PAR1rest", 1, "Parquet"),
    ("utf-16", lines(*TEN).decode().encode("utf-16"), 1, "UTF-16"),
    ("utf-16 big-endian", b"\xfe\xff" + lines(*TEN).decode().encode("utf-16-be"), 1, "UTF-16"),
    ("utf-16 in a file of lines", third(GOOD.decode().encode("utf-16")), 3, "JSON"),
    ("one JSON list", b"[" + b",".join(TEN) + b"]", 1, "one JSON list"),
    ("CSV", b"prompt,completion\na,b\n", 1, "JSON"),
    ("latin-1", third('{"messages": "é"}'.encode("latin-1")), 3, "JSON"),
    ("half a line", lines(*TEN) + GOOD[:20], 11, "JSON"),
    ("two objects in a line", third(GOOD + GOOD), 3, "JSON"),
    ("no JSON", third(b"hello"), 3, "JSON"),
    ("a number", third(b"7"), 3, "object"),
    ("null", third(b"null"), 3, "object"),
    ("a list", third(b"[]"), 3, "object"),
    ("deep JSON", third(b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"), 3, "JSON"),
    ("a lone surrogate", third(b'{"messages": "\\ud800"}'), 3, "JSON"),
    ("an endless line", third(b'{"messages": "' + b"x" * (1 << 20) + b'"}'), 3, "longer than"),
    ("completions", third(b'{"prompt": "a", "completion": "b"}'), 3, "a pair of `prompt` and `completion`"),
    ("Alpaca", third(b'{"instruction": "a", "input": "", "output": "b"}'), 3, "Alpaca's format"),
    ("preferences", third(b'{"input": {}, "preferred_output": []}'), 3, "the method dpo"),
    ("TRL's preferences", third(b'{"prompt": "a", "chosen": "b", "rejected": "c"}'), 3, "TRL's preference format"),
    ("Gemini", third(b'{"contents": []}'), 3, "Gemini's format"),
    ("Cohere", third(chat(chat_message("User", "a"), chat_message("Chatbot", "b"))), 3, "Cohere's `Chatbot`"),
    ("ShareGPT", third(b'{"conversations": []}'), 3, "ShareGPT"),
    ("an empty object", third(b"{}"), 3, "messages"),
    ("messages that are text", third(b'{"messages": "hi"}'), 3, "messages"),
    ("no messages", third(chat()), 3, "no user message"),
    ("an unknown role", third(chat(chat_message("robot", "a"), ANSWER)), 3, "role"),
    ("a tool's answer", third(chat(USER, chat_message("tool", "a"), ANSWER)), 3, "tool_call_id"),
    ("no role", third(chat({"content": "a"}, ANSWER)), 3, "role"),
    ("no content", third(chat(USER, {"role": "assistant"})), 3, "content"),
    ("empty content", third(chat(USER, chat_message("assistant", ""))), 3, "content"),
    ("null content", third(chat(USER, chat_message("assistant", None))), 3, "content"),
    ("content that is a number", third(chat(USER, chat_message("assistant", 7))), 3, "content"),
    ("an image", third(chat(chat_message("user", [{"type": "image_url", "image_url": {}}]), ANSWER)), 3, "not text"),
    ("no user", third(chat(chat_message("system", "a"), ANSWER)), 3, "no user message"),
    ("no assistant", third(chat(USER)), 3, "last message must be the assistant's"),
    ("the user last", third(chat(USER, ANSWER, USER)), 3, "last message must be the assistant's"),
    ("an empty question", third(chat(chat_message("user", ""), ANSWER)), 3, "content"),
    ("weight 2", third(chat(USER, ANSWER | {"weight": 2})), 3, "weight"),
    ("weight as text", third(chat(USER, ANSWER | {"weight": "1"})), 3, "weight"),
    ("weight on a user", third(chat(USER | {"weight": 1}, ANSWER)), 3, "weight"),
    ("weight 0 alone", third(chat(USER, ANSWER | {"weight": 0})), 3, "no assistant message to train on"),
    ("tools", third(chat(USER, ANSWER, tools=[{"type": "function"}])), 3, "tools"),
    ("tool calls", third(chat(USER, chat_message("assistant", "a", tool_calls=[{}]))), 3, "tool_calls"),
    (
        "beyond the context",
        third(chat(chat_message("user", "x" * 300), ANSWER)),
        3,
        "expected at most the context of 256",
    ),
    ("nine examples", lines(*TEN[:9]), 9, "expected at least 10"),
]


async def test_they_are_fifty() -> None:
    assert len(MALFORMED) == 50
    assert len({content for _, content, _, _ in MALFORMED}) == 50


@pytest.mark.parametrize(("content", "line", "reason"), [case[1:] for case in MALFORMED], ids=[c[0] for c in MALFORMED])
async def test_a_broken_file_is_refused_with_its_line_and_the_reason(
    tiny: TinyServer, content: bytes, line: int, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await tiny.client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    error: Any = refused.value.body
    assert error["code"] == "training_file_invalid"
    assert f"line {line}: " in error["message"]
    assert reason in error["message"]
    assert str(tiny.settings.data_dir) not in error["message"]
    assert not list((tiny.settings.data_dir / "files").iterdir())


ACCEPTED: list[tuple[str, bytes]] = [
    ("a byte order mark", b"\xef\xbb\xbf" + lines(*TEN)),
    ("line ends of Windows, blank lines", b"\r\n\r\n".join([*TEN, b"", b""])),
    ("a developer", third(chat(chat_message("developer", "a"), USER, ANSWER))),
    ("an empty system message, and one later", third(chat(chat_message("system", None), USER, SYSTEM, ANSWER))),
    ("parts of the Responses API", third(chat(chat_message("user", [{"type": "input_text", "text": "a"}]), ANSWER))),
    ("more keys", third(chat(USER | {"id": 1}, ANSWER | {"reasoning": None}, metadata={"a": 1}))),
]


@pytest.mark.parametrize("content", [case[1] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
@pytest.mark.parametrize("name", ["train.json", "upload"])
async def test_files_as_people_have_them_are_accepted(tiny: TinyServer, content: bytes, name: str) -> None:
    file = await tiny.client.files.create(file=(name, content), purpose="fine-tune")
    report = (await tiny.http.get(f"/v1/files/{file.id}/report")).json()["report"]
    assert (report["kind"], report["examples"]) == ("chat", 10)
    await tiny.client.files.delete(file.id)


async def test_ignored_keys_are_named_in_the_report(tiny: TinyServer) -> None:
    content = third(chat(USER, ANSWER, metadata={"a": 1}))
    file = await tiny.client.files.create(file=("a.jsonl", content), purpose="fine-tune")
    report = (await tiny.http.get(f"/v1/files/{file.id}/report")).json()["report"]
    assert "the key `metadata` is ignored (lines with it: 1)" in report["warnings"]
    await tiny.client.files.delete(file.id)


async def test_the_report_on_preference_pairs_says_their_kind(tiny: TinyServer) -> None:
    pair = {
        "input": {"messages": [USER]},
        "preferred_output": [ANSWER],
        "non_preferred_output": [ANSWER | {"content": "no"}],
    }
    file = await tiny.client.files.create(
        file=("a.jsonl", lines(*[json.dumps(pair).encode()] * 10)), purpose="fine-tune"
    )
    report = (await tiny.http.get(f"/v1/files/{file.id}/report")).json()["report"]
    assert (report["kind"], report["examples"]) == ("preference", 10)
    await tiny.client.files.delete(file.id)


async def test_a_refusal_names_the_users_file(tiny: TinyServer) -> None:
    with pytest.raises(openai.BadRequestError, match=r"mine\.json is not a valid training file"):
        await tiny.client.files.create(file=("mine.json", b"{}"), purpose="fine-tune")


async def test_a_file_is_uploaded_and_deleted(tiny: TinyServer) -> None:
    content = lines(*TEN)
    file = await tiny.client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "train.jsonl",
        len(content),
        "fine-tune",
        "processed",
    )
    assert await tiny.client.files.wait_for_processing(file.id) == file
    assert (await tiny.client.files.content(file.id)).content == content
    report = (await tiny.http.get(f"/v1/files/{file.id}/report")).json()["report"]
    assert (report["examples"], report["duplicates"]) == (10, 9)
    assert [one.id async for one in await tiny.client.files.list()] == [file.id]
    assert (await tiny.client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await tiny.client.files.retrieve(file.id)
    assert not list((tiny.settings.data_dir / "files").iterdir())


async def test_files_are_listed_in_pages(tiny: TinyServer) -> None:
    made = [await tiny.client.files.create(file=("a.jsonl", lines(*TEN)), purpose="fine-tune") for _ in range(3)]
    ids = [file.id for file in made]
    assert [file.id async for file in await tiny.client.files.list(limit=2)] == ids[::-1]
    assert [file.id async for file in await tiny.client.files.list(limit=2, order="asc")] == ids
    assert (await tiny.client.files.list(purpose="fine-tune-results")).data == []
    for file in ids:
        await tiny.client.files.delete(file)


async def test_a_name_with_a_path_in_it_stays_a_name(tiny: TinyServer) -> None:
    file = await tiny.client.files.create(file=("../../etc/\x1b[31mx.jsonl", lines(*TEN)), purpose="fine-tune")
    assert (tiny.settings.data_dir / "files" / file.id).is_file()
    assert "\x1b" not in file.filename
    await tiny.client.files.delete(file.id)


@pytest.mark.parametrize("file", ["file-nothing", "..%2F..%2Floramux.sqlite3", "%00", "file-" + "0" * 24])
async def test_ids_that_are_none_are_not_found(tiny: TinyServer, file: str) -> None:
    for path in (f"/v1/files/{file}", f"/v1/files/{file}/content"):
        assert (await tiny.http.get(path)).status_code == 404
    assert (await tiny.http.delete(f"/v1/files/{file}")).status_code == 404
