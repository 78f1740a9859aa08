import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters.finetuning.datasets.other_formats.converter import convert_file
from loramux_adapters.finetuning.datasets.other_formats.formats import find_format
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.errors import InvalidDataset

PAIR = {"prompt": "Où?", "completion": "là"}
CHAT = {"messages": [{"role": "user", "content": "Où?"}, {"role": "assistant", "content": "là"}]}


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "old.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PAIR) + "\r\n\r\n" + json.dumps(PAIR),
        json.dumps([PAIR, PAIR], ensure_ascii=False),
        json.dumps(PAIR, indent=2) + "\n" + json.dumps(PAIR, indent=2),
    ],
    ids=["lines", "list", "pretty-printed"],
)
def test_lines_lists_and_pretty_printed_objects_are_read_in_every_encoding(
    tmp_path: Path, text: str, encoding: str
) -> None:
    report = convert_file(written(tmp_path, text.encode(encoding)), tmp_path / "new.jsonl")
    assert [json.loads(line) for line in (tmp_path / "new.jsonl").read_bytes().splitlines()] == [CHAT, CHAT]
    assert (report.kind, report.written, report.left_out) == ("chat", 2, 0)
    assert report.formats == {"a pair of `prompt` and `completion`": 2}


def test_openais_own_lines_stay_and_dropped_keys_are_named(tmp_path: Path) -> None:
    lines = [CHAT | {"id": 1}, PAIR | {"category": "x"}, CHAT]
    report = convert_file(written(tmp_path, json.dumps(lines)), tmp_path / "new.jsonl")
    assert report.formats == {"OpenAI's format": 2, "a pair of `prompt` and `completion`": 1}
    assert report.warnings == (
        "the key `id` is ignored (lines with it: 1)",
        "the key `category` is ignored (lines with it: 1)",
    )
    assert len(read_dataset(tmp_path / "new.jsonl")) == 3


def test_nothing_is_written_if_an_example_cant_be_converted(tmp_path: Path) -> None:
    text = json.dumps(PAIR) + '\n{"prompt": \n' + json.dumps(PAIR | {"completion": ""}) + '\n{"text": "x"}'
    with pytest.raises(InvalidDataset) as refused:
        convert_file(written(tmp_path, text), tmp_path / "new.jsonl")
    assert [line for line, _ in refused.value.problems] == [2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_examples_that_cant_be_converted_can_be_left_out(tmp_path: Path) -> None:
    lines = [PAIR, 7, PAIR | {"completion": "\ud800"}, {"prompt": {}}, CHAT]
    text = "\n".join(map(json.dumps, lines))
    report = convert_file(written(tmp_path, text), tmp_path / "new.jsonl", skip_invalid=True)
    assert (report.written, report.left_out) == (2, 3)
    assert [line for line, _ in report.problems] == [2, 3, 4]
    assert "a surrogate" in report.problems[1][1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1: the file is empty"),
        (b"\xef\xbb\xbf \n", "line 1: the file is empty"),
        (b"[]", "line 1: the file has no examples"),
        (b"\x1f\x8b\x08", "line 1: it is compressed with gzip: decompress it"),
        (b'{"a": 1}\n"\xff"', "line 2: it is not Unicode text"),
        (b"[" * 100_000, "line 1: Invalid JSON: too many nested brackets"),
        (b'{"messages": NaN}', "line 1: Invalid JSON"),
    ],
)
@pytest.mark.parametrize("skip_invalid", [False, True])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: bytes, reason: str, skip_invalid: bool) -> None:
    with pytest.raises(InvalidDataset, match=reason):
        convert_file(written(tmp_path, content), tmp_path / "new.jsonl", skip_invalid=skip_invalid)


def test_lines_are_counted_through_pretty_printed_objects(tmp_path: Path) -> None:
    text = json.dumps(PAIR, indent=2) + "\n" + json.dumps(PAIR | {"completion": ""}, indent=2)
    with pytest.raises(InvalidDataset, match="line 5: messages"):
        convert_file(written(tmp_path, text), tmp_path / "new.jsonl")


def test_tools_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    text = '{"a": ' * 480 + "{}" + "}" * 480
    line = '{"conversations": [], "tools": {"name": "a", "parameters": ' + text + "}}"
    with pytest.raises(InvalidDataset, match="line 1: too many nested brackets"):
        convert_file(written(tmp_path, line), tmp_path / "new.jsonl")


def test_conversations_and_preference_pairs_are_not_mixed(tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(InvalidDataset, match="line 2: the file has conversations and preference pairs"):
        convert_file(written(tmp_path, json.dumps([CHAT, pair])), tmp_path / "new.jsonl")


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    source = written(tmp_path, json.dumps([PAIR]))
    with pytest.raises(FileExistsError, match="choose the name of a new file"):
        convert_file(source, source)
    assert json.loads(source.read_text()) == [PAIR]


KEYS = st.sampled_from(
    [
        *("messages", "conversations", "contents", "role", "from", "content", "value", "parts", "text", "type"),
        *("prompt", "completion", "chosen", "rejected", "system", "history", "instruction", "output", "label"),
        *("tools", "functions", "function_call", "tool_calls", "function", "name", "arguments"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "gpt", "tool", "[{}]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_object_is_converted_to_a_valid_line_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    target = folder / "new.jsonl"
    find_format({key: value for key, value in document.items() if value is not None})
    try:
        report = convert_file(written(folder, json.dumps(document)), target)
    except InvalidDataset as refused:
        assert refused.problems
        assert not target.exists()
    else:
        assert report.written == 1
