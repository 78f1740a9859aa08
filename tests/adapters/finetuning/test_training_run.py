import os
from pathlib import Path

import pytest

from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.training_run import TrainingRun
from tests.helpers.adapter_files import BASE

RUN = TrainingRun(base=Path("base"), description=BASE, data=Path("train.jsonl"), output=Path("out"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recipe": Recipe(rank=4, learning_rate=1 / 3), "validation": Path("held-out.jsonl"), "state": Path("state")},
        {"save_seconds": 0.0, "device": "cuda:1", "threads": 3},
        {"initial_adapter": Path("adapter"), "recipe": Recipe(method="dpo", beta=0.2, early_stopping_patience=3)},
        {"quantize": "never", "unquantized_base": Path("full"), "served_dtype": "bfloat16"},
        {"data": Path(os.fsdecode(b"not-utf-8-\xff.jsonl")), "output": Path("größe")},
    ],
)
def test_a_run_survives_its_file(tmp_path: Path, changes: dict[str, object]) -> None:
    run = RUN.model_copy(update=changes)
    run.write(tmp_path / "run.json")
    assert TrainingRun.read(tmp_path / "run.json") == run


def test_a_file_of_an_older_release_is_a_run_that_quantizes_only_if_needed(tmp_path: Path) -> None:
    older = {"base", "description", "data", "output", "recipe", "validation", "rendering", "state", "save_seconds",
             "device", "threads"}  # fmt: skip
    (tmp_path / "run.json").write_text(RUN.model_dump_json(include=older))
    found = TrainingRun.read(tmp_path / "run.json")
    assert (found.quantize, found.unquantized_base) == ("auto", None)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"base": "b", "description": {}, "data": "d", "output": "o", "x": 1}']
)
def test_a_file_that_is_not_a_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r".+"):
        TrainingRun.read(tmp_path / "run.json")
