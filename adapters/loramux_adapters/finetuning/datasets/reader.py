"""Reads training files: one conversation per line, each validated before training."""

from collections.abc import Iterator
from pathlib import Path

from loramux_adapters.finetuning.datasets.conversations import Conversation, parse_conversation
from loramux_adapters.finetuning.datasets.lines import iter_lines


def read_dataset(path: Path) -> list[Conversation]:
    """Read and validate the whole file.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    return list(iter_conversations(path))


def iter_conversations(path: Path, name: str | None = None) -> Iterator[Conversation]:
    """Yield the conversations of a file of any size, which errors call `name`.

    Errors are raised where they are found, after valid conversations were yielded: discard those then.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    return iter_lines(path, parse_conversation, name)
