import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from loramux_loadtests.compare import ADAPTER, FEW_SHOT, SHORT, ComparisonError, compare, main, read_folder

RIGHT = {"red": "stop", "green": "go"}


def chat(*contents: str) -> list[dict[str, str]]:
    return [dict(zip(("role", "content"), content.split(": ", 1), strict=True)) for content in contents]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter that labels colours, with twelve held-out items."""
    path = tmp_path / "lights"
    path.mkdir()
    items = [
        chat("system: forget me", f"user: {colour} {i}", f"assistant: {RIGHT[colour]}")
        for i in range(6)
        for colour in RIGHT
    ]
    (path / "test.jsonl").write_text("".join(json.dumps({"messages": item}) + "\n" for item in items))
    (path / "prompt_short.json").write_text(json.dumps(chat("system: label")))
    (path / "prompt_few_shot.json").write_text(json.dumps(chat("system: rules", "user: red", "assistant: stop")))
    (path / "compare.yaml").write_text("scorer: {type: label, labels: [stop, go]}\nmax_tokens: 4\n")
    (path / "README.md").write_text("# Lights\n<!-- results: written by loramux compare -->\n<!-- end of results -->\n")
    return path


class FakeServer:
    """The adapter is always right; the base says `stop` to everything, whatever its prompt."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = status

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        colour = body["messages"][-1]["content"].split()[0]
        label = RIGHT[colour] if body["model"] == "lights" else "stop"
        lines = (
            {"choices": [{"index": 0, "delta": {"content": label}}]},
            {"choices": [], "usage": {"prompt_tokens": 10 * len(body["messages"]), "completion_tokens": 1}},
        )
        stream = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        return web.Response(text=stream, content_type="text/event-stream", status=self.status)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        async with TestServer(app) as server:
            yield str(server.make_url("/"))


async def test_every_item_goes_through_every_arm_with_that_arms_prompt(folder: Path) -> None:
    fake = FakeServer()
    async with fake.running() as url:
        comparison = await compare(read_folder(folder), url=url, base="tiny")
    assert len(fake.asked) == 3 * 12
    assert {name: arm.scores["accuracy"].estimate for name, arm in comparison.arms.items()} == {
        SHORT: 0.5,
        FEW_SHOT: 0.5,
        ADAPTER: 1.0,
    }
    assert {name: arm.input_tokens for name, arm in comparison.arms.items()} == {SHORT: 20, FEW_SHOT: 40, ADAPTER: 20}
    assert comparison.verdict == "better"
    assert all(body["temperature"] == 0 and body["max_tokens"] == 4 for body in fake.asked)
    assert "forget me" not in json.dumps(fake.asked)


async def test_the_arms_take_turns_in_going_first(folder: Path) -> None:
    fake = FakeServer()
    async with fake.running() as url:
        await compare(read_folder(folder), url=url, base="tiny", at_once=1)
    per_item = [fake.asked[start : start + 3] for start in range(0, 36, 3)]
    assert all(len({body["messages"][-1]["content"] for body in bodies}) == 1 for bodies in per_item)
    assert len({json.dumps([bodies[0]["model"], len(bodies[0]["messages"])]) for bodies in per_item}) > 1


async def test_only_as_many_items_as_wanted_are_asked(folder: Path) -> None:
    fake = FakeServer()
    async with fake.running() as url:
        comparison = await compare(read_folder(folder), url=url, base="tiny", limit=5)
    assert (comparison.items, len(fake.asked)) == (5, 15)


async def test_a_failed_request_ends_the_comparison_instead_of_counting_as_wrong(folder: Path) -> None:
    async with FakeServer(status=500).running() as url:
        with pytest.raises(ComparisonError, match="500"):
            await compare(read_folder(folder), url=url, base="tiny")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("compare.yaml", "max_tokens: 4"),
        ("compare.yaml", "scorer: {type: label, labels: [stop, go]}\nmax_tokens: 0"),
        ("compare.yaml", "{"),
        ("test.jsonl", "{}\n"),
        ("test.jsonl", "not json\n"),
        ("test.jsonl", ""),
        ("prompt_few_shot.json", "["),
    ],
)
def test_a_folder_that_cannot_be_compared_is_refused_by_name(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(ComparisonError, match="lights can't be compared"):
        read_folder(folder)


@pytest.mark.parametrize("file", ["compare.yaml", "test.jsonl", "prompt_short.json", "prompt_few_shot.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ComparisonError, match=file):
        read_folder(folder)


def test_a_server_that_does_not_answer_is_an_error_and_leaves_the_folder_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "README.md").read_text()
    monkeypatch.setattr("sys.argv", ["compare", str(folder), "--url", "http://127.0.0.1:1", "--base", "tiny"])
    assert main() == 1
    assert "Cannot connect" in capsys.readouterr().err
    assert not (folder / "results.json").exists()
    assert (folder / "README.md").read_text() == before
