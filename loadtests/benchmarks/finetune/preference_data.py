"""Preference pairs made from a seed: a shop's answers, of which the courteous one is preferred to the curt one."""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import yaml

_PAIRS = Path(__file__).parent / "preference_pairs.yaml"


def write_preferences(folder: Path, *, training: int = 160, held_out: int = 60, seed: int = 1) -> tuple[Path, Path]:
    """Write a training and a validation file in OpenAI's preference format; the held-out ones have their own cases."""
    paths = folder / "preferences.jsonl", folder / "preferences-held-out.jsonl"
    given = yaml.safe_load(_PAIRS.read_text(encoding="utf-8"))
    for path, part, count in zip(paths, ("trained", "held_out"), (training, held_out), strict=True):
        _write(path, _pairs(given[part], count, seed))
    return paths


def write_preferred(folder: Path, preferences: Path) -> Path:
    """Write the preferred answers of a preference file as examples for supervised fine-tuning."""
    path = folder / f"{preferences.stem}-preferred.jsonl"
    pairs = [json.loads(line) for line in preferences.read_text(encoding="utf-8").splitlines()]
    _write(path, [{"messages": pair["input"]["messages"] + pair["preferred_output"]} for pair in pairs])
    return path


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _pairs(given: Mapping[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """Return `count` pairs, as many of each case as of any other."""
    rng = Random(seed)  # noqa: S311 - reproducible data, not a secret
    words = list(product(given["names"], given["items"], given["days"]))
    cases = given["cases"]
    pairs = [_pair(case, *chosen) for case in cases for chosen in rng.sample(words, -(-count // len(cases)))]
    return rng.sample(pairs, count)


def _pair(case: Mapping[str, str], name: str, item: str, day: str) -> dict[str, Any]:
    texts = {key: text.format(name=name, item=item, day=day) for key, text in case.items()}
    system = f"You answer customers of a shop in two short sentences. The customer is {name}. It will be done by {day}."
    return {
        "input": {"messages": [{"role": "system", "content": system}, {"role": "user", "content": texts["question"]}]},
        "preferred_output": [{"role": "assistant", "content": texts["courteous"]}],
        "non_preferred_output": [{"role": "assistant", "content": texts["curt"]}],
    }
