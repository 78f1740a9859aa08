"""The pairs of a validation file that an adapter can be judged by: new prompts, and each pair only once."""

from pathlib import Path
from typing import NamedTuple

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.duplicates import find_leaks, prompt_key
from loramux_adapters.evaluation.items import Item
from loramux_adapters.finetuning.datasets.preferences import PreferencePair, iter_preferences, read_preferences


class UnseenPairs(NamedTuple):
    """The pairs to judge by, and the number of those that were left out."""

    pairs: list[PreferencePair]
    left_out: int


def unseen_pairs(training: Path, validation: Path) -> UnseenPairs:
    """Return the validation pairs whose prompts are not in the training file, not even nearly; repeated ones once.

    Raises:
        InvalidDataset: a file has invalid lines.
        OSError: a file can't be read.
    """
    held_out = read_preferences(validation)
    by_key: dict[tuple[object, ...], PreferencePair] = {}
    for pair in held_out:
        by_key.setdefault(_key(pair), pair)
    distinct = list(by_key.values())
    leaks = find_leaks(map(_item, iter_preferences(training)), list(map(_item, distinct)))
    pairs = [pair for index, pair in enumerate(distinct) if index not in leaks]
    return UnseenPairs(pairs, len(held_out) - len(pairs))


def _key(pair: PreferencePair) -> tuple[object, ...]:
    return prompt_key(_item(pair)), answer_text(pair.preferred), answer_text(pair.rejected)


def _item(pair: PreferencePair) -> Item:
    return Item(pair.prompt, answer_text(pair.preferred), pair.tools)
