"""Preference pairs for the inputs of `real_trainer`: of two words, the right one is preferred."""

import json
from pathlib import Path


def write_pairs(path: Path, count: int = 10, start: int = 0, step: int = 1) -> Path:
    """Write pairs whose preferred answer says whether a number is even or odd."""
    words = ("even", "odd")
    lines = [
        {
            "input": {"messages": [{"role": "user", "content": f"number {number}"}]},
            "preferred_output": [{"role": "assistant", "content": words[number % 2]}],
            "non_preferred_output": [{"role": "assistant", "content": words[1 - number % 2]}],
        }
        for number in range(start, start + count * step, step)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
