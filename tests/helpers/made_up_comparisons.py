"""Comparisons whose truth is known, because their answers are made up: what `loramux compare` must say about each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.automatic import AutoScorer
from loramux_loadtests.compare.items import add_prompt
from loramux_loadtests.compare.plan import Arm, Comparison
from tests.helpers.made_up_experiments import LABELS, VERSION, Experiment, Pair, experiments, rng_of

ADAPTER, PROMPTED, BARE = "adapter", "prompted base", "bare base"
SYSTEM = {"role": "system", "content": "You work for a bank."}

Answer = Callable[[Chat], str]
"""How an arm answers the messages that it is sent."""


class MadeUp(NamedTuple):
    """A comparison with its scored answers, the verdict that is right, and the codes of the warnings it must have."""

    comparison: Comparison
    answers: list[ScoredAnswer]
    verdict: str
    warnings: frozenset[str] = frozenset()


def made_up_comparisons() -> dict[str, Callable[[], MadeUp]]:
    """The made-up jobs as comparisons, and some that only comparisons have, by name."""
    jobs = {made.name: lambda made=made: as_comparison(made) for made in experiments()}
    return jobs | {"only the most frequent label": _frequent, "cut off": _cut_off, "the luckiest of six": _luckiest}


def as_comparison(made: Experiment) -> MadeUp:
    """Compare the adapter of a made-up job with the bare base and with the base that is shown an example."""
    example = [{"role": "user", "content": "x"}, {"role": "assistant", "content": made.training[0][1]}]
    items, training = _items(made.validation), _items(made.training)
    with asyncio.Runner() as runner:

        def base(chat: Chat) -> str:
            return runner.run(made.answer(None, chat, 10_000)).text

        def adapter(chat: Chat) -> str:
            return runner.run(made.answer(VERSION, chat, 10_000)).text

        arms = {BARE: ([], base), PROMPTED: (example, base), ADAPTER: ([], adapter)}
        return made_up(items, arms, made.verdict, made.warnings, training=training)


def made_up(
    items: Sequence[Item],
    arms: Mapping[str, tuple[Chat, Answer]],
    verdict: str,
    warnings: Sequence[str] | frozenset[str] = (),
    *,
    training: Sequence[Item] = (),
    finish_reason: str = "stop",
) -> MadeUp:
    """The answers of these arms, each with its prompt, to these items; the last arm is the challenger."""
    scorer = AutoScorer(type="auto").fit(item.expected for item in items)
    answers = [
        _scored(scorer, arm, number, item, reply(add_prompt(prompt, item.messages)), finish_reason)
        for arm, (prompt, reply) in arms.items()
        for number, item in enumerate(items)
    ]
    comparison = Comparison(
        name="made-up",
        items=items,
        data="",
        arms=[Arm(name, name, prompt, "http://127.0.0.1:1") for name, (prompt, _) in arms.items()],
        challenger=list(arms)[-1],
        reference=None,
        scorer=scorer,
        max_tokens=8,
        prices=None,
        training=training,
    )
    return MadeUp(comparison, answers, verdict, frozenset(warnings))


def _items(pairs: Sequence[Pair]) -> list[Item]:
    return [Item([SYSTEM, {"role": "user", "content": question}], answer) for question, answer in pairs]


def _scored(scorer: AutoScorer, arm: str, number: int, item: Item, text: str, finish_reason: str) -> ScoredAnswer:
    return ScoredAnswer(
        pass_="warm",
        arm=arm,
        item=number,
        text=text,
        input_tokens={PROMPTED: 400, BARE: 30}.get(arm, 20) + number % 7,
        cached_tokens=0,
        output_tokens=2,
        ttft=0.1 + number % 5 / 100,
        tpot=0.01,
        seconds=0.2 + number % 5 / 100,
        finish_reason=finish_reason,
        scores=scorer.score(text, item.expected),
    )


def _labelled(count: int, labels: Sequence[str] = LABELS) -> list[Item]:
    rng = rng_of("labels", count)
    return _items([(f"message {number}", rng.choice(labels)) for number in range(count)])


def _frequent() -> MadeUp:
    """Nine of twelve items have the same label, and both arms know nothing else."""
    arms: dict[str, tuple[Chat, Answer]] = {name: ([], lambda _: "refund") for name in (PROMPTED, ADAPTER)}
    return made_up(_labelled(200, ["refund"] * 9 + list(LABELS[1:4])), arms, "neither works")


def _cut_off() -> MadeUp:
    items = [Item(item.messages, f'{{"label": "{item.expected}", "sure": true}}') for item in _labelled(40)]
    arms: dict[str, tuple[Chat, Answer]] = {name: ([], lambda _: '{"label": "ref') for name in (PROMPTED, ADAPTER)}
    warnings = ["truncated_answers", "same_scores"]
    return made_up(items, arms, "neither works", warnings, finish_reason="length")


def _luckiest() -> MadeUp:
    """Six arms that are equally good: the adapter must not be called better than the best, nor better than another."""
    items = _labelled(40)
    expected = {item.messages[-1]["content"]: item.expected for item in items}

    def answer(name: str) -> Answer:
        def right_on_three_of_five(chat: Chat) -> str:
            question = chat[-1]["content"]
            is_right = rng_of(name, question).random() < 0.6
            return expected[question] if is_right else "none"

        return right_on_three_of_five

    names = [*(f"prompt {number}" for number in range(5)), ADAPTER]
    return made_up(items, {name: ([], answer(name)) for name in names}, "not enough items")
