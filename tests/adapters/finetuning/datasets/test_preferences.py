import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.datasets.kinds import detect_kind
from loramux_adapters.finetuning.datasets.preferences import read_preferences
from loramux_adapters.finetuning.errors import InvalidDataset

USER = {"role": "user", "content": "How cold is it?"}
GOOD = {"role": "assistant", "content": "Not as cold as expected."}
BAD = {"role": "assistant", "content": "Cold."}
TOOL = {"type": "function", "function": {"name": "weather"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def pair(**changes: Any) -> dict[str, Any]:
    prompt = {"messages": [USER], "tools": [], "parallel_tool_calls": True}
    return {"input": prompt, "preferred_output": [GOOD], "non_preferred_output": [BAD]} | changes


def written(folder: Path, *lines: object) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_pair_in_openais_documented_form_is_read(tmp_path: Path) -> None:
    [read] = read_preferences(written(tmp_path, pair()))
    assert (read.prompt, read.tools, read.preferred, read.rejected) == ([USER], [], GOOD, BAD)


def test_answers_may_call_tools_and_follow_their_results(tmp_path: Path) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "7 degrees"}
    prompt = {"messages": [USER, CALLING, result], "tools": [TOOL]}
    line = pair(input=prompt, non_preferred_output=[CALLING])
    [read] = read_preferences(written(tmp_path, line))
    assert (read.prompt, read.tools) == ([USER, CALLING, result], [TOOL])
    assert (read.preferred, read.rejected) == (GOOD, CALLING)


def test_unknown_keys_nulls_and_blank_lines_are_ignored(tmp_path: Path) -> None:
    line = pair(metadata={}, input={"messages": [USER | {"id": "m"}], "tools": None, "user": "x"})
    [read] = read_preferences(written(tmp_path, "\ufeff", line, ""))
    assert read.line == 2
    assert read.ignored_keys == {"metadata", "input.user", "input.messages.id"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (pair(preferred_output=[]), "preferred_output: expected one message of the assistant"),
        (pair(non_preferred_output=[GOOD, BAD]), "non_preferred_output: expected one message of the assistant"),
        (pair(preferred_output=[USER]), "preferred_output: expected one message of the assistant"),
        (pair(preferred_output=[GOOD | {"content": ""}]), "preferred_output.0: content: the assistant's message is"),
        (pair(preferred_output=None), "preferred_output: Field required"),
        (pair(input="How cold is it?"), "input: Input should be"),
        (pair(input={"messages": USER}), "input.messages: expected a list"),
        (pair(preferred_output=GOOD), "preferred_output: expected a list"),
        (pair(input=None), "input: Field required"),
        (pair(input={"messages": []}), "input: there is no user message"),
        (pair(input={"messages": [USER, BAD]}), "input: the last message is the assistant's: move the answers"),
        (pair(input={"messages": [{"role": "system", "content": "x"}]}), "input: there is no user message"),
        ({"messages": [USER, GOOD]}, "it is a conversation, not a preference pair"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "`chosen` and `rejected` (TRL's preference format)"),
        ({}, "input: Field required"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_number(tmp_path: Path, line: object, reason: str) -> None:
    with pytest.raises(InvalidDataset) as refused:
        read_preferences(written(tmp_path, pair(), line))
    [(number, found)] = refused.value.problems
    assert number == 2
    assert reason in found


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([pair()], "preference"),
        (["", "\ufeff  ", pair()], "preference"),
        ([{"non_preferred_output": []}], "preference"),
        ([{"messages": []}, pair()], "chat"),
        ([{"messages": [], "preferred_output": None, "non_preferred_output": None}], "chat"),
        (["{"], "chat"),
        ([], "chat"),
    ],
)
def test_the_first_line_shows_the_kind_of_a_file(tmp_path: Path, lines: list[object], kind: str) -> None:
    assert detect_kind(written(tmp_path, *lines)) == kind


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    assert detect_kind(path) == "chat"
    with pytest.raises(InvalidDataset):
        read_preferences(path)
