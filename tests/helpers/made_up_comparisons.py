"""Comparisons whose truth is known, because their answers are made up: what `loramux compare` must say about each."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.verdict import MARGIN
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.automatic import AutoScorer
from loramux_loadtests.compare.judge import ComparisonScorer
from loramux_loadtests.compare.plan import Arm, Comparison
from loramux_loadtests.compare.reading import parse_scorer

ADAPTER, PROMPTED, BARE = "adapter", "prompted base", "bare base"
LABELS = ("refund", "late", "broken", "billing")
TOKENS = {ADAPTER: 30, PROMPTED: 400}

Answer = Callable[[random.Random, Item], str]
"""How an arm answers an item."""


class MadeUp(NamedTuple):
    """A comparison with its scored answers, the verdict that is right, and the codes of the warnings it must have."""

    comparison: Comparison
    answers: list[ScoredAnswer]
    verdict: str
    warnings: frozenset[str] = frozenset()


def right(share: float, labels: Sequence[str] = LABELS) -> Answer:
    """Answer right with this probability, else with another label."""

    def answer(rng: random.Random, item: Item) -> str:
        others = [label for label in labels if label != item.expected]
        return item.expected if rng.random() < share else rng.choice(others)

    return answer


def always(text: str) -> Answer:
    """Give the same answer to every item."""
    return lambda rng, item: text


def labelled(count: int, seed: int = 0, weights: Sequence[int] = (1, 1, 1, 1)) -> list[Item]:
    """Items with one of LABELS each."""
    rng = random.Random(seed)  # noqa: S311 - an experiment, not a secret
    words = ("parcel", "invoice", "kettle", "account", "lamp", "garden", "door", "window", "chair", "table")
    return [
        Item(
            [
                {"role": "system", "content": "Label the message."},
                {"role": "user", "content": f"Message {seed}-{number}: {' '.join(rng.choices(words, k=8))}"},
            ],
            rng.choices(LABELS, weights)[0],
        )
        for number in range(count)
    ]


def made_up(
    items: Sequence[Item],
    arms: Mapping[str, Answer],
    verdict: str,
    warnings: Sequence[str] = (),
    *,
    scorer: ComparisonScorer | None = None,
    training: Sequence[Item] = (),
    finish_reason: str = "stop",
    margin: float = MARGIN,
    seed: int = 0,
) -> MadeUp:
    """The answers of these arms to these items; the last arm is the challenger."""
    fitted = (scorer or AutoScorer(type="auto")).fit(item.expected for item in items)
    rng = random.Random(seed)  # noqa: S311 - an experiment, not a secret
    answers = [
        _scored(fitted, arm, number, item, reply(rng, item), finish_reason)
        for arm, reply in arms.items()
        for number, item in enumerate(items)
    ]
    comparison = Comparison(
        name="made-up",
        items=items,
        data="",
        arms=[Arm(name, name, [], "http://127.0.0.1:1") for name in arms],
        challenger=list(arms)[-1],
        reference=None,
        scorer=fitted,
        max_tokens=8,
        prices=None,
        training=training,
        margin=margin,
    )
    return MadeUp(comparison, answers, verdict, frozenset(warnings))


def _scored(scorer: ComparisonScorer, arm: str, number: int, item: Item, text: str, finish_reason: str) -> ScoredAnswer:
    return ScoredAnswer(
        pass_="warm",
        arm=arm,
        item=number,
        text=text,
        input_tokens=TOKENS.get(arm, 100) + number % 7,
        cached_tokens=0,
        output_tokens=2,
        ttft=0.1 + number % 5 / 100,
        tpot=0.01,
        seconds=0.2 + number % 5 / 100,
        finish_reason=finish_reason,
        scores=scorer.score(text, item.expected),
    )


def _mislabelled() -> list[Item]:
    """Forty items of which every fifth has a wrong label, which only the expected answers say."""
    return [
        item._replace(expected="late" if item.expected != "late" else "broken") if number % 5 == 0 else item
        for number, item in enumerate(labelled(40))
    ]


def _leaked() -> MadeUp:
    items, training = labelled(100), labelled(100, seed=1)
    known = {item.messages[-1]["content"] for item in items[:60]}

    def memorized(rng: random.Random, item: Item) -> str:
        return item.expected if item.messages[-1]["content"] in known else right(0.7)(rng, item)

    arms = {PROMPTED: right(0.7), ADAPTER: memorized}
    return made_up(items, arms, "not enough items", ["leak"], training=[*training, *items[:60]])


def _true_labels() -> Answer:
    true = {item.messages[-1]["content"]: item.expected for item in labelled(40)}
    return lambda rng, item: true[item.messages[-1]["content"]]


def _alike() -> MadeUp:
    """Both are right on nine of ten items, mostly on the same ones."""
    items = labelled(600)
    wrong = {item.messages[-1]["content"] for item in items[::10]}

    def both(rng: random.Random, item: Item) -> str:
        share = 0.02 if item.messages[-1]["content"] in wrong else 0.99
        return right(share)(rng, item)

    return made_up(items, {PROMPTED: both, ADAPTER: both}, "as good")


def _cut_off() -> MadeUp:
    items = [Item(item.messages, f'{{"label": "{item.expected}", "sure": true}}') for item in labelled(40)]
    arms: dict[str, Answer] = {name: lambda rng, item: item.expected[:14] for name in (PROMPTED, ADAPTER)}
    warnings = ["truncated_answers", "same_scores"]
    return made_up(items, arms, "neither works", warnings, finish_reason="length")


def _luckiest() -> MadeUp:
    """Six arms that are equally good: the adapter must not be called better than the best, nor better than another."""
    arms = {f"prompt {number}": right(0.6) for number in range(5)} | {ADAPTER: right(0.6)}
    return made_up(labelled(40), arms, "not enough items")


EXPERIMENTS: dict[str, Callable[[], MadeUp]] = {
    "adapter better": lambda: made_up(labelled(200), {PROMPTED: right(0.4), ADAPTER: right(0.9)}, "better"),
    "as good": _alike,
    "adapter worse": lambda: made_up(labelled(200), {PROMPTED: right(0.85), ADAPTER: right(0.5)}, "worse"),
    "a bare base is no rival": lambda: made_up(
        labelled(300), {BARE: right(0.3), PROMPTED: right(0.9), ADAPTER: right(0.6)}, "worse"
    ),
    "broken scorer": lambda: made_up(
        labelled(60),
        {PROMPTED: lambda rng, item: f"Label: {item.expected}.", ADAPTER: lambda rng, item: item.expected.upper()},
        "neither works",
        ["same_scores"],
        scorer=parse_scorer("exact"),
    ),
    "leak": _leaked,
    "few items": lambda: made_up(labelled(8), {PROMPTED: right(0), ADAPTER: right(1)}, "not enough items"),
    "only the most frequent label": lambda: made_up(
        labelled(200, weights=(9, 1, 1, 1)), {PROMPTED: always("refund"), ADAPTER: always("refund")}, "neither works"
    ),
    "wrong labels": lambda: made_up(
        _mislabelled(), {PROMPTED: _true_labels(), ADAPTER: _true_labels()}, "not enough items", ["wrong_label"]
    ),
    "cut off": _cut_off,
    "the luckiest of six": _luckiest,
}
