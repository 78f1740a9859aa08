"""TRL's trainer with less work for the same result: logits of answers only, and batches of similar lengths."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler
from trl import SFTTrainer

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.recipes.memory import LOGITS_CHUNK_TOKENS
from loramux_adapters.finetuning.trainer.logits import logits_of
from loramux_adapters.finetuning.trainer.micro_batches import MemoryFallback, split_batch
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, ProgressReporter
from loramux_adapters.finetuning.trainer.tokenized_examples import IGNORED_LABEL

_COLUMNS = ("input_ids", "attention_mask", "labels")
_BATCHES_PER_GROUP = 25
"""Random groups of 25 batches' examples are sorted by length, so that similar lengths share a batch."""


class AnswerScores(NamedTuple):
    """Sums over the answers' tokens of a batch: the loss, and the number of tokens predicted correctly."""

    loss: torch.Tensor
    correct: torch.Tensor
    tokens: int


class AnswerLossTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not typed
    """An SFTTrainer for one device and any model with a decoder.

    Without Triton, TRL computes the logits of prompt tokens too and discards them: with a vocabulary of 49,000 and
    short answers this was a third of the work.
    """

    control: Any

    def __init__(
        self, *, reporter: ProgressReporter, lengths: list[int], memory: MemoryFallback, **options: Any
    ) -> None:
        self._reporter, self._lengths, self._memory = reporter, lengths, memory
        self._tokens = 0
        self._accuracy = 0.0
        super().__init__(callbacks=[reporter], **options)

    def training_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Add up the gradients of a batch's mean loss over the tokens of its answers; returns the loss, a scalar.

        Raises:
            TrainingError: the loss is NaN or infinite, or memory ran out.
        """
        model.train()
        batch = self._prepare_inputs(inputs)
        work = partial(self._score_parts, batch, backward=self._backward)
        scores = self._memory.run(work, f"step {self.state.global_step + 1}")
        self._tokens += int(batch["attention_mask"].sum())
        self._accuracy = int(scores.correct) / scores.tokens
        return scores.loss / scores.tokens

    def _score_parts(
        self, batch: Any, size: int, backward: Callable[[torch.Tensor], None] | None = None
    ) -> AnswerScores:
        """Score a batch in parts of `size` examples; `backward` is called with each part's share of the mean loss."""
        tokens = int(_is_answer(batch["labels"]).sum())
        parts = []
        for part in split_batch({name: batch[name] for name in _COLUMNS}, size):
            scores = self.score(self.model, part)
            if backward:
                backward(scores.loss / tokens)
            parts.append((scores.loss.detach(), scores.correct))
        losses, correct = zip(*parts, strict=True)
        return AnswerScores(torch.stack(losses).sum(), torch.stack(correct).sum(), tokens)

    def _backward(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            narrow = " or, since float16's range is small, train on the CPU" if self.args.fp16 else ""
            raise TrainingError(
                f"the loss is NaN or infinite after step {self.state.global_step}: use a lower learning_rate{narrow}"
            )
        self.accelerator.backward(loss)

    def score(self, model: Any, inputs: Any) -> AnswerScores:
        """Score the answers of a batch of `input_ids`, `attention_mask` and `labels`, each [examples, tokens]."""
        causal = model.get_base_model()
        targets, is_answer = inputs["labels"][:, 1:], _is_answer(inputs["labels"])
        with self.accelerator.autocast():
            states = causal.get_decoder()(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).last_hidden_state[:, :-1][is_answer]
            chunks = list(
                zip(states.split(LOGITS_CHUNK_TOKENS), targets[is_answer].split(LOGITS_CHUNK_TOKENS), strict=True)
            )
            losses, correct = zip(
                *(self._score_chunk(causal, *chunk, is_only=len(chunks) == 1) for chunk in chunks), strict=True
            )
        return AnswerScores(torch.stack(losses).sum(), torch.stack(correct).sum(), int(is_answer.sum()))

    @staticmethod
    def _score_chunk(causal: Any, states: Any, targets: Any, *, is_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a chunk of tokens; one of several recomputes its logits in the backward pass, to save memory."""

        def scored(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = logits_of(causal, states).float()
            return cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()

        return scored(states) if is_only else checkpoint(scored, states, use_reentrant=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics that TRL's own loss would have added."""
        if "loss" in logs:
            logs = logs | {"mean_token_accuracy": self._accuracy, "num_tokens": float(self._tokens)}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate the validation file: means over the tokens of its answers, independent of the batches.

        Raises:
            InsufficientMemory: memory ran out.
            PausedError: a pause was requested; a pass can be long, so it is not finished but repeated on resuming.
        """
        self.model.eval()
        loss, correct, tokens = 0.0, 0, 0
        with torch.no_grad():
            for inputs in self.get_eval_dataloader():
                if self._reporter.pause_requested:
                    raise PausedError(self._reporter.saved_step)
                work = partial(self._score_parts, self._prepare_inputs(inputs))
                scores = self._memory.run(work, f"the validation after step {self.state.global_step}")
                loss, correct, tokens = (
                    loss + float(scores.loss),
                    correct + int(scores.correct),
                    tokens + scores.tokens,
                )
        self.model.train()
        metrics = {"eval_loss": loss / tokens, "eval_mean_token_accuracy": correct / tokens}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Load the scale of the loss, unless the training goes on with a dtype that needs none."""
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)

    def _get_train_sampler(self, *_: Any) -> "LengthGroupedSampler":
        return LengthGroupedSampler(self._lengths, self.args.train_batch_size, self.args.seed)


def _is_answer(labels: torch.Tensor) -> torch.Tensor:
    """Return whether the next token of each token but the last is learned: [examples, tokens - 1]."""
    return labels[:, 1:] != IGNORED_LABEL


class LengthGroupedSampler(Sampler[int]):
    """Random order of examples in which each batch holds similar lengths; the same for the same epoch and seed."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; accelerate calls it before each one, including the one in which training resumes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=rng).tolist()
        group = self._batch_size * _BATCHES_PER_GROUP
        batches = [
            batch
            for start in range(0, len(order), group)
            for batch in self._batches(sorted(order[start : start + group], key=self._lengths.__getitem__))
        ]
        *full, last = batches  # only the last one may be smaller: it stays at the end
        for number in torch.randperm(len(full), generator=rng).tolist():
            yield from full[number]
        yield from last

    def _batches(self, order: list[int]) -> list[list[int]]:
        return [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
