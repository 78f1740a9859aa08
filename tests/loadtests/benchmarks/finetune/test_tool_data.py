import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.finetune import tool_data
from loramux_adapters.finetuning.datasets.reader import read_dataset


def phrases() -> dict[str, Any]:
    path = Path(tool_data.__file__).with_name("tool_calls.yaml")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def test_the_halves_share_no_phrase_and_no_value() -> None:
    found = phrases()
    assert len(found["tools"]) == 8
    for halves in (*found["tools"].values(), *found["values"].values()):
        assert not {str(each).casefold() for each in halves["train"]} & {
            str(each).casefold() for each in halves["test"]
        }


def test_a_seed_gives_the_same_files_with_different_questions_and_calls_from_their_words(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append([path.read_text() for path in tool_data.write_tool_data(tmp_path / name)])
    assert files[0] == files[1]
    training, test = ([json.loads(line) for line in text.splitlines()] for text in files[0])
    assert (len(training), len(test)) == (tool_data.TRAINING_ITEMS, tool_data.TEST_ITEMS)
    questions = [line["messages"][0]["content"] for line in training + test]
    assert len(set(questions)) == len(questions)
    for line in training + test:
        question, answer = line["messages"]
        arguments = json.loads(answer["tool_calls"][0]["function"]["arguments"])
        assert all(str(value) in question["content"] for value in arguments.values())
    assert len(read_dataset(tmp_path / "one" / "train.jsonl")) == tool_data.TRAINING_ITEMS
