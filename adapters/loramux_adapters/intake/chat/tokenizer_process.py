"""Compares two tokenizers: `python -m loramux_adapters.intake.chat.tokenizer_process BASE OWN` (see `tokenizers`).

It reads both tokenizer.json files with the library, and writes a JSON object with the tokens that only OWN has, whether
its other tokens have the numbers of BASE, and whether it splits sample texts as BASE does.
"""

import json
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

MAX_CPU_SECONDS = 30
MEMORY_BYTES, MEMORY_PER_BYTE = 1 << 30, 12
"""The limit of memory is the sum of the first, and of the second for each byte of both files."""
MAX_TOKENS = 1000
"""Number of new tokens that are listed."""
_SAMPLES = (
    "The capital of France is Paris.\n\n  It's 12345 km² away…",
    'def add(a, b):\n\treturn {"sum": a + b}  # ok',
    "Grüße, naïve café, привет, 你好, こんにちは, مرحبا, 🙂👩‍🚀",
)


def compare(base_file: str, own_file: str) -> dict[str, Any]:
    """Return how the tokenizer in `own_file` differs from that in `base_file`."""
    base, own = _open(base_file), _open(own_file)
    known, found = base.get_vocab(with_added_tokens=True), own.get_vocab(with_added_tokens=True)
    new = sorted(token for token in found if token not in known)
    return {
        "new": [token[:100] for token in new[:MAX_TOKENS]],
        "is_renumbered": any(found[token] != number for token, number in known.items() if token in found),
        "lacks": sum(token not in found for token in known),
        "splits_alike": all(_tokens(base, text) == _tokens(own, text) for text in _SAMPLES),
    }


def _open(file: str) -> Tokenizer:
    """Return a tokenizer without the padding and truncation that the last user of its file may have set."""
    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _main() -> None:
    memory = MEMORY_BYTES + MEMORY_PER_BYTE * sum(Path(file).stat().st_size for file in sys.argv[1:3])
    for kind, limit in (
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))
    with suppress(OSError):  # the kernel ends this process first when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    json.dump(compare(sys.argv[1], sys.argv[2]), sys.stdout)


if __name__ == "__main__":
    _main()
