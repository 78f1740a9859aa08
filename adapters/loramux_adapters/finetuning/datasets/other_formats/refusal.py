"""Refuses lines in other formats by their name."""

from collections.abc import Mapping
from typing import Any

from loramux_adapters.finetuning.datasets.lines import OtherFormat
from loramux_adapters.finetuning.datasets.other_formats.formats import find_format


def refuse_other_formats(document: Mapping[str, Any]) -> None:
    """Refuse a line, given without its null values, that has a known format other than OpenAI's.

    Raises:
        OtherFormat: names the format and the way out.
    """
    found = find_format(document)
    if found is not None:
        raise OtherFormat(f"it is {found.name}, not OpenAI's format: {found.way_out}")
