"""The reasoning that an answer begins with where no reasoning parser has taken it away: it is not scored."""

from loramux_adapters.evaluation.calls import parse_calls

OPENING, END = "<think>", "</think>"


def after_reasoning(text: str) -> str:
    """Return the answer after its reasoning; "" if that has not ended."""
    if parse_calls(text) is not None:
        return text
    if END in text:
        return text.rpartition(END)[2].strip()
    return "" if text.lstrip().startswith(OPENING) else text
