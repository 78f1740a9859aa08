"""A data set of tool calls from tool_calls.yaml: a seed gives the same files on any machine."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

TRAINING_ITEMS, TEST_ITEMS = 480, 120
SEED = 15
_PHRASES = Path(__file__).with_name("tool_calls.yaml")

Half = Literal["train", "test"]


def write_tool_data(folder: Path) -> tuple[Path, Path]:
    """Write train.jsonl and test.jsonl to `folder`, and return their paths."""
    phrases = yaml.safe_load(_PHRASES.read_text(encoding="utf-8"))
    rng = random.Random(SEED)  # noqa: S311 - data, not a secret
    paths = []
    for half, count in (("train", TRAINING_ITEMS), ("test", TEST_ITEMS)):
        lines = tool_lines(phrases, half, count, rng)  # type: ignore[arg-type]
        path = folder / f"{half}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def tool_lines(phrases: Mapping[str, Any], half: Half, count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Return different lines in OpenAI's format, equally many of each tool, in random order."""
    names = list(phrases["tools"])
    tools = [_definition(name, tool["parameters"]) for name, tool in phrases["tools"].items()]
    lines: dict[str, dict[str, Any]] = {}
    while len(lines) < count:
        name = names[len(lines) % len(names)]
        question, arguments = _request(phrases, phrases["tools"][name], half, rng)
        lines.setdefault(question, _line(question, name, arguments, tools))
    return rng.sample(list(lines.values()), count)


def _request(
    phrases: Mapping[str, Any], tool: Mapping[str, Any], half: Half, rng: random.Random
) -> tuple[str, dict[str, Any]]:
    arguments = {name: rng.choice(phrases["values"][name][half]) for name in tool["parameters"]}
    return rng.choice(tool[half]).format(**arguments), arguments


def _definition(name: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    properties = {argument: {"type": kind} for argument, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _line(question: str, name: str, arguments: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": "call_1", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    return {"messages": messages, "tools": tools}
