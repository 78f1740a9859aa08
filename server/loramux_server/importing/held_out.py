"""Examples that are kept out of the training, to compare the old model with the new one on them."""

import hashlib
import json
from typing import Any, NamedTuple

MIN_TRAINING_EXAMPLES = 10
"""The fewest that a job may have."""
MIN_HELD_OUT = 10


class Split(NamedTuple):
    """The lines of a file, in their order."""

    training: list[bytes]
    held_out: list[bytes]


def split_lines(content: bytes) -> list[bytes]:
    """The lines of a JSONL file without the blank ones, a byte order mark and line ends."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.strip() for line in lines if line.strip()]


def hold_out(lines: list[bytes], share: float) -> Split:
    """Hold out a share of the examples, at least MIN_HELD_OUT; none if too few would be left to train on.

    Which ones is decided by a hash of the prompt: equal prompts go together, and the same file is always split alike.
    """
    wanted = max(MIN_HELD_OUT, round(len(lines) * share))
    if not share or len(lines) < max(MIN_TRAINING_EXAMPLES, 3 * MIN_HELD_OUT):
        return Split(lines, [])
    keys = [hashlib.sha256(_prompt(line)).digest() for line in lines]
    chosen: set[bytes] = set()
    count = 0
    for key in sorted(set(keys)):
        size = keys.count(key)
        if count >= wanted:
            break
        if len(lines) - count - size >= MIN_TRAINING_EXAMPLES:
            chosen.add(key)
            count += size
    return Split(
        [line for line, key in zip(lines, keys, strict=True) if key not in chosen],
        [line for line, key in zip(lines, keys, strict=True) if key in chosen],
    )


def _prompt(line: bytes) -> bytes:
    """What identifies an example's prompt; the whole line if it has another form."""
    try:
        example: Any = json.loads(line)
    except (ValueError, RecursionError):
        return line
    match example:
        case {"messages": [*prompt, _]}:
            return json.dumps(prompt, sort_keys=True).encode()
        case {"input": prompt} | {"prompt": prompt}:
            return json.dumps(prompt, sort_keys=True).encode()
    return line


def as_items(lines: list[bytes]) -> list[bytes]:
    """Held-out examples as conversations that end with the expected answer: of a preference, the preferred one."""
    return [_as_item(line) for line in lines]


def _as_item(line: bytes) -> bytes:
    try:
        example: Any = json.loads(line)
    except (ValueError, RecursionError):
        return line
    match example:
        case {"input": {"messages": [*prompt]}, "preferred_output": [*answer]}:
            given = {name: example["input"][name] for name in ("tools",) if example["input"].get(name)}
            return json.dumps({"messages": [*prompt, *answer], **given}).encode()
    return line
