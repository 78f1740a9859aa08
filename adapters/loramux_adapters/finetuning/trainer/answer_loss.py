"""Supervised training: TRL's trainer with the loss of the answers' tokens."""

from collections.abc import Iterator
from typing import Any

import torch
from trl import SFTTrainer

from loramux_adapters.finetuning.trainer.micro_batch_trainer import BatchScores, MicroBatchTrainer
from loramux_adapters.finetuning.trainer.micro_batches import Batch, split_batch
from loramux_adapters.finetuning.trainer.token_scores import score_tokens
from loramux_adapters.finetuning.trainer.tokenized_examples import IGNORED_LABEL


class AnswerLossTrainer(MicroBatchTrainer, SFTTrainer):  # type: ignore[misc]  # TRL is not typed
    """An SFTTrainer whose loss is the mean over the answers' tokens of a batch."""

    columns = ("input_ids", "attention_mask", "labels")

    def count(self, batch: Batch) -> int:
        """Return the number of tokens to learn."""
        return int(_is_answer(batch["labels"]).sum())

    def split(self, batch: Batch, size: int) -> Iterator[Batch]:
        """Yield parts of `size` examples."""
        return split_batch(batch, size)

    def score(self, model: Any, inputs: Any) -> BatchScores:
        """Score the answers of a batch of `input_ids`, `attention_mask` and `labels`, each [examples, tokens]."""
        is_answer = _is_answer(inputs["labels"])
        with self.accelerator.autocast():
            losses, correct = score_tokens(model.get_base_model(), inputs, is_answer)
        return BatchScores(losses.sum(), {"mean_token_accuracy": correct.sum()}, len(losses))


def _is_answer(labels: torch.Tensor) -> torch.Tensor:
    """Return whether the next token of each token but the last is learned: [examples, tokens - 1]."""
    return labels[:, 1:] != IGNORED_LABEL
