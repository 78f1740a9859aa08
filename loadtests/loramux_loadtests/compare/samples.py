"""Sample items of a comparison with the exact messages that each arm sent, and each arm's answer."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.items import add_prompt
from loramux_loadtests.compare.plan import Comparison

MAX_SAMPLES = 3


class SampleAnswer(BaseModel):
    """What one arm sent for an item, and what it answered."""

    model_config = ConfigDict(frozen=True)

    messages: Chat
    text: str
    scores: dict[str, float]
    finish_reason: str | None


class Sample(BaseModel):
    """One item with the answers of all arms in the last pass."""

    model_config = ConfigDict(frozen=True)

    item: int
    question: str
    expected: str
    arms: dict[str, SampleAnswer]


def samples(comparison: Comparison, answers: Sequence[ScoredAnswer], count: int = MAX_SAMPLES) -> list[Sample]:
    """The first `count` items that every arm answered in the last pass."""
    return [
        sample(comparison, item, arms)
        for item, arms in sorted(answers_by_item(answers).items())
        if len(arms) == len(comparison.arms)
    ][:count]


def sample(comparison: Comparison, number: int, answers: Mapping[str, ScoredAnswer]) -> Sample:
    """The item of this number; `answers` are by arm."""
    item = comparison.items[number]
    prompts = {arm.name: arm.prompt for arm in comparison.arms}
    return Sample(
        item=number,
        question=question_text(item),
        expected=item.expected,
        arms={
            name: SampleAnswer(
                messages=add_prompt(prompts[name], item.messages),
                text=answer.text,
                scores=answer.scores,
                finish_reason=answer.finish_reason,
            )
            for name, answer in answers.items()
        },
    )


def question_text(item: Item) -> str:
    """The last message before the answer."""
    return answer_text(item.messages[-1])


def answers_by_item(answers: Sequence[ScoredAnswer]) -> dict[int, dict[str, ScoredAnswer]]:
    """The answers of the last pass, by item and arm."""
    by_item: dict[int, dict[str, ScoredAnswer]] = {}
    for answer in answers:
        if answer.pass_ == answers[-1].pass_:
            by_item.setdefault(answer.item, {})[answer.arm] = answer
    return by_item
