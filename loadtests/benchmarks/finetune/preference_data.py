"""Preference pairs made from a seed: a shop's answers, of which the courteous one is preferred to the curt one."""

import json
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

_TRAINED = {
    "names": ["Ana", "Bo", "Carla", "Dev", "Elif", "Femi", "Greta", "Hugo"],
    "items": ["kettle", "desk lamp", "raincoat", "garden hose", "wall clock", "backpack", "toaster", "yoga mat"],
    "days": ["Monday", "Tuesday", "Wednesday", "Thursday"],
}
_HELD_OUT = {
    "names": ["Ines", "Jonas", "Kofi", "Leila", "Mira", "Nils"],
    "items": ["bookshelf", "hair dryer", "tent", "bicycle pump", "frying pan", "umbrella"],
    "days": ["Friday", "Saturday", "Sunday"],
}
_CASES = [
    (
        "My {item} has not arrived.",
        "I am sorry about the wait, {name}. Your {item} will be with you by {day}, and I will keep an eye on it.",
        "Late. It comes {day}.",
    ),
    (
        "The {item} you sent is broken.",
        "I am sorry about that, {name}. A new {item} will leave us on {day}, and you can keep the broken one.",
        "Then send it back. New one {day}.",
    ),
    (
        "I was charged twice for the {item}.",
        "I am sorry for the mistake, {name}. The second payment for the {item} will be back by {day}.",
        "Our error. Money back {day}.",
    ),
    (
        "Can I return the {item}?",
        "Of course, {name}. We will collect the {item} on {day}, and it costs you nothing.",
        "Yes. Pickup {day}.",
    ),
    (
        "When do you have the {item} again?",
        "Thank you for asking, {name}. The {item} will be back on {day}, and I can put one aside for you.",
        "{day}.",
    ),
]


def write_preferences(folder: Path, *, training: int = 160, held_out: int = 60, seed: int = 1) -> tuple[Path, Path]:
    """Write a training and a validation file in OpenAI's preference format; names, items and days differ."""
    rng = Random(seed)  # noqa: S311 - reproducible data, not a secret
    paths = folder / "preferences.jsonl", folder / "preferences-held-out.jsonl"
    for path, values, count in zip(paths, (_TRAINED, _HELD_OUT), (training, held_out), strict=True):
        pairs = [_pair(case, *words) for case in _CASES for words in product(*values.values())]
        lines = [json.dumps(pair) for pair in rng.sample(pairs, count)]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return paths


def _pair(case: tuple[str, str, str], name: str, item: str, day: str) -> dict[str, Any]:
    question, preferred, other = (text.format(name=name, item=item, day=day) for text in case)
    system = f"Answer the customer {name}. The day is {day}."
    return {
        "input": {"messages": [{"role": "system", "content": system}, {"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": preferred}],
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }
