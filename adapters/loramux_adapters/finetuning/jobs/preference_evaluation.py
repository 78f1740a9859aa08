"""The evaluation of a job by DPO: how often it prefers the preferred answers of the validation file, and some answers.

A pair is preferred as in the validation file if the adapter makes its preferred answer more likely, relative to the
reference, than the other one: TRL's reward accuracy, computed by the trainer. An adapter without effect has 0.5.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.intervals import mean_interval
from loramux_adapters.finetuning.datasets.preferences import PreferencePair, iter_preferences
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter
from loramux_adapters.finetuning.jobs.evaluation import CompleteChat
from loramux_adapters.finetuning.jobs.evaluation_summary import MeanInterval
from loramux_adapters.finetuning.recipes.estimate import PREFERENCE_SAMPLES
from loramux_adapters.models import VersionId

CHANCE = 0.5


class PreferenceSample(BaseModel):
    """One pair of the validation file, and the answers of the reference and of the adapter to its prompt."""

    model_config = ConfigDict(frozen=True)

    line: int
    messages: list[dict[str, Any]]
    preferred: str
    non_preferred: str
    reference: str
    adapter: str


class PreferenceSummary(BaseModel):
    """The outcome, as stored and shown; `reference` is the base, or the version that the training went on from."""

    model_config = ConfigDict(frozen=True)

    pairs: int
    accuracy: MeanInterval
    """Share of the pairs that are preferred as in the file."""
    confidence: float = 0.95
    reward_margin: float
    """Mean of the preferred answers' rewards minus those of the others, in nats times beta."""
    reference: str
    is_better_than_chance: bool
    """Whether the whole interval is above 0.5."""
    sentence: str
    samples: list[PreferenceSample] = []


@dataclass(frozen=True)
class PreferenceEvaluator:
    """Summarizes what the trainer measured, and asks the reference and the adapter for answers."""

    complete: CompleteChat
    token_counter: ChatTokenCounter

    async def evaluate(
        self, version: VersionId, reference: VersionId | None, validation: Path, measured: Mapping[str, Any]
    ) -> PreferenceSummary:
        """Return the summary; `measured` are the metrics of the pass over the validation file with this adapter.

        Raises:
            AdapterError: the file is invalid, or a request failed.
            OSError: the file can't be read.
        """
        pairs = await asyncio.to_thread(lambda: list(iter_preferences(validation)))
        samples = await asyncio.gather(*(self._sample(pair, version, reference) for pair in pairs[:PREFERENCE_SAMPLES]))
        return summarize_preferences(len(pairs), measured, str(reference or "the base"), samples)

    async def _sample(self, pair: PreferencePair, version: VersionId, reference: VersionId | None) -> PreferenceSample:
        tokens = await asyncio.to_thread(self._answer_tokens, pair)
        answers = [(await self.complete(model, pair.prompt, tokens, pair.tools)).text for model in (reference, version)]
        return PreferenceSample(
            line=pair.line,
            messages=pair.prompt,
            preferred=answer_text(pair.preferred),
            non_preferred=answer_text(pair.rejected),
            reference=answers[0],
            adapter=answers[1],
        )

    def _answer_tokens(self, pair: PreferencePair) -> int:
        """Return the tokens of the longer answer of a pair, with room for a longer one."""
        prompt = self.token_counter.count_prompt(pair.prompt, pair.tools)
        answers = (pair.preferred, pair.rejected)
        longest = max(self.token_counter.count_conversation([*pair.prompt, one], pair.tools) for one in answers)
        return 2 * max(1, longest - prompt)


def summarize_preferences(
    pairs: int, measured: Mapping[str, Any], reference: str, samples: Sequence[PreferenceSample] = ()
) -> PreferenceSummary:
    """Return the summary of the metrics `valid_reward_accuracy` and `valid_reward_margin` over `pairs` pairs."""
    right = round(measured["valid_reward_accuracy"] * pairs)
    accuracy = mean_interval([1.0] * right + [0.0] * (pairs - right))
    is_better = accuracy.low > CHANCE
    verdict = "above chance" if is_better else "not shown to be above chance"
    return PreferenceSummary(
        pairs=pairs,
        accuracy=accuracy,
        reward_margin=measured["valid_reward_margin"],
        reference=reference,
        is_better_than_chance=is_better,
        sentence=(
            f"Against {reference}, the adapter prefers the preferred answer in {right} of {pairs} held-out pairs: "
            f"{accuracy.estimate:.2f} [{accuracy.low:.2f}, {accuracy.high:.2f}], {verdict}"
        ),
        samples=list(samples),
    )
