"""The evaluation of a job by DPO: how often it prefers the preferred answers of the validation file, and some answers.

A pair is preferred as in the validation file if the adapter makes its preferred answer more likely, relative to the
reference, than the other one: TRL's reward accuracy, computed by the trainer. An adapter without effect has 0.5.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from loramux_adapters.errors import AdapterError
from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.intervals import mean_interval
from loramux_adapters.finetuning.datasets.preferences import PreferencePair
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter
from loramux_adapters.finetuning.datasets.unseen_pairs import UnseenPairs
from loramux_adapters.finetuning.jobs.evaluation import CompleteChat
from loramux_adapters.finetuning.jobs.evaluation_summary import MeanInterval
from loramux_adapters.finetuning.recipes.estimate import PREFERENCE_SAMPLES
from loramux_adapters.models import VersionId

CHANCE = 0.5
_log = logging.getLogger(__name__)


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
    left_out: int = 0
    """Pairs of the validation file whose prompts are in the training file, or that it repeats."""
    accuracy: MeanInterval
    """Share of the pairs that are preferred as in the file; a pair without a preference counts as one half."""
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
    max_context_tokens: int

    async def evaluate(
        self, version: VersionId, reference: VersionId | None, held_out: UnseenPairs, measured: Mapping[str, Any]
    ) -> PreferenceSummary:
        """Return the summary; `measured` are the metrics of the pass over the held-out pairs with this adapter."""
        pairs = held_out.pairs[:PREFERENCE_SAMPLES]
        samples = await asyncio.gather(*(self._try_sample(pair, version, reference) for pair in pairs))
        summary = summarize_preferences(len(held_out.pairs), measured, str(reference or "the base"))
        return summary.model_copy(
            update={"left_out": held_out.left_out, "samples": [sample for sample in samples if sample]}
        )

    async def _try_sample(
        self, pair: PreferencePair, version: VersionId, reference: VersionId | None
    ) -> PreferenceSample | None:
        """Ask the prompt of a pair; None if that fails, which must not lose what the trainer has measured."""
        try:
            return await self._sample(pair, version, reference)
        except AdapterError as error:
            _log.warning("line %d of a validation file was not asked: %s", pair.line, error.message)
            return None

    async def _sample(self, pair: PreferencePair, version: VersionId, reference: VersionId | None) -> PreferenceSample:
        tokens = await asyncio.to_thread(self._answer_tokens, pair)
        request = (pair.prompt, tokens, pair.tools, pair.input.parallel_tool_calls)
        answers = [(await self.complete(model, *request)).text for model in (reference, version)]
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
        return max(1, min(2 * (longest - prompt), self.max_context_tokens - prompt))


def summarize_preferences(pairs: int, measured: Mapping[str, Any], reference: str) -> PreferenceSummary:
    """Return the summary of the metrics `valid_reward_accuracy` and `valid_reward_margin` over `pairs` pairs."""
    right = round(2 * measured["valid_reward_accuracy"] * pairs) / 2
    halves = [0.5] if right % 1 else []  # of several ties, two count as one right pair: the interval is wider then
    accuracy = mean_interval([1.0] * int(right) + halves + [0.0] * (pairs - int(right) - len(halves)))
    is_better = accuracy.low > CHANCE
    verdict = "above chance" if is_better else "not shown to be above chance"
    return PreferenceSummary(
        pairs=pairs,
        accuracy=accuracy,
        reward_margin=measured["valid_reward_margin"],
        reference=reference,
        is_better_than_chance=is_better,
        sentence=(
            f"Relative to {reference}, the adapter makes the preferred answer the likelier one in {right:g} of {pairs} "
            f"held-out pairs: {accuracy.estimate:.2f} [{accuracy.low:.2f}, {accuracy.high:.2f}], {verdict}. How it "
            "answers, the samples show"
        ),
    )
