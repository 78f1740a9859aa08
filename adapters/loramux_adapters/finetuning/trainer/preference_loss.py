"""Direct preference optimization: TRL's trainer with the log-probabilities of the answers' tokens only."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import DPOTrainer
from trl.trainer.utils import use_adapter

from loramux_adapters.finetuning.trainer.micro_batch_trainer import BatchScores, MicroBatchTrainer
from loramux_adapters.finetuning.trainer.micro_batches import Batch, split_batch
from loramux_adapters.finetuning.trainer.token_scores import score_tokens

REFERENCE = "ref"
"""TRL's name of the adapter that it copies as the reference."""


class PreferenceTrainer(MicroBatchTrainer, DPOTrainer):  # type: ignore[misc]  # TRL is not typed
    """A DPOTrainer with the sigmoid loss, the mean over the pairs of a batch.

    The reference is the base, or the adapter that the training goes on from as it was. The rows of a batch are all
    preferred answers with their prompts, then all others.
    """

    columns = ("input_ids", "attention_mask", "completion_mask")

    def __init__(self, *, is_new_adapter: bool, **options: Any) -> None:
        super().__init__(**options)
        if is_new_adapter and REFERENCE in self.model.peft_config:  # a copy of an adapter without effect
            self.model.delete_adapter(REFERENCE)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # tokenized already

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the adapter without the reference: where both are, transformers resumes the reference alone."""
        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / REFERENCE, ignore_errors=True)

    def count(self, batch: Batch) -> int:
        """Return the number of pairs."""
        return len(batch["input_ids"]) // 2

    def split(self, batch: Batch, size: int) -> Iterator[Batch]:
        """Yield parts of `size` pairs."""
        pairs = self.count(batch)
        halves = {name: torch.stack(torch.split(tensor, pairs), dim=1) for name, tensor in batch.items()}
        for start in range(0, pairs, size):
            # [pairs, 2, tokens] to rows of preferred answers, then of others
            rows = {name: tensor[start : start + size].transpose(0, 1).flatten(0, 1) for name, tensor in halves.items()}
            yield from split_batch(rows, len(rows["input_ids"]))

    def score(self, model: Any, inputs: Any) -> BatchScores:
        """Score a batch of `input_ids`, `attention_mask` and `completion_mask`, each [2 * pairs, tokens]."""
        reference = REFERENCE if REFERENCE in model.peft_config else None
        with torch.no_grad(), use_adapter(model, reference):
            expected = self._log_probabilities(model, inputs)
        rewards = self.beta * (self._log_probabilities(model, inputs) - expected)
        preferred, other = rewards.chunk(2)
        margins = preferred - other
        right = (margins > 0).float() + (margins == 0).float() / 2  # an adapter without effect is right by chance
        measures = {"reward_accuracy": right.sum(), "reward_margin": margins.detach().sum()}
        return BatchScores(-logsigmoid(margins).sum(), measures, len(margins))

    def _log_probabilities(self, model: Any, inputs: Any) -> torch.Tensor:
        """Return the log-probability of each row's answer, in nats: [2 * pairs]."""
        is_answer = inputs["completion_mask"][:, 1:].bool()
        with self.accelerator.autocast():
            losses = score_tokens(model.get_base_model(), inputs, is_answer).losses
        rows = is_answer.nonzero()[:, 0]
        return losses.new_zeros(len(is_answer)).index_add(0, rows, -losses)
