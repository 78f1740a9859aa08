"""The kinds of training files: conversations, and preference pairs."""

from pathlib import Path
from typing import Literal

from loramux_adapters.finetuning.datasets.ignored_keys import without_nulls
from loramux_adapters.finetuning.datasets.lines import MAX_LINE_BYTES, is_blank, parse_object
from loramux_adapters.finetuning.datasets.preferences import is_preference

Kind = Literal["chat", "preference"]


def detect_kind(path: Path) -> Kind:
    """Return the kind of a file by its first line with content; a line that can't be read may be a conversation's.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES + 1)
        while line and is_blank(line):
            line = file.readline(MAX_LINE_BYTES + 1)
    try:
        return "preference" if is_preference(without_nulls(parse_object(line))) else "chat"
    except ValueError:
        return "chat"
