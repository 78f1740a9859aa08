"""What all methods share: batches in parts that fit into memory, validation, and metrics of each step."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.trainer.length_groups import LengthGroupedSampler
from loramux_adapters.finetuning.trainer.micro_batches import Batch, MemoryFallback
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, ProgressReporter


class BatchScores(NamedTuple):
    """Sums over a batch's tokens or pairs of answers, `items` of them: the loss, and measures by name."""

    loss: torch.Tensor
    measures: Mapping[str, torch.Tensor]
    items: int

    @classmethod
    def total(cls, parts: "list[BatchScores]") -> "BatchScores":
        """Return the sums over all parts of a batch."""
        measures = {name: torch.stack([part.measures[name] for part in parts]).sum() for name in parts[0].measures}
        return cls(torch.stack([part.loss for part in parts]).sum(), measures, sum(part.items for part in parts))

    def means(self) -> dict[str, float]:
        """Return the means of the measures."""
        return {name: float(value) / self.items for name, value in self.measures.items()}


class MicroBatchTrainer:
    """Mix-in for TRL's trainers, for one device and any model with a decoder.

    A subclass says what a batch consists of, and how it is scored. `lengths` are those of the examples, in tokens.
    """

    columns: ClassVar[tuple[str, ...]]
    """The tensors of a batch, each [rows, tokens]."""
    args: Any
    state: Any
    control: Any
    model: Any
    accelerator: Any
    callback_handler: Any
    train: Callable[..., Any]

    def __init__(
        self, *, reporter: ProgressReporter, lengths: list[int], memory: MemoryFallback, **options: Any
    ) -> None:
        self._reporter, self._lengths, self._memory = reporter, lengths, memory
        self._tokens = 0
        self._measures: dict[str, float] = {}
        super().__init__(callbacks=[reporter], **options)  # type: ignore[call-arg]

    def count(self, batch: Batch) -> int:
        """Return the number of tokens or pairs over which the batch's loss is the mean."""
        raise NotImplementedError

    def split(self, batch: Batch, size: int) -> Iterator[Batch]:
        """Yield parts of `size` examples of a batch."""
        raise NotImplementedError

    def score(self, model: Any, inputs: Any) -> BatchScores:
        """Score a batch of `columns`."""
        raise NotImplementedError

    def training_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Add up the gradients of a batch's mean loss; returns the loss, a scalar.

        Raises:
            TrainingError: the loss is NaN or infinite, or memory ran out.
        """
        model.train()
        batch = self._prepare_inputs(inputs)  # type: ignore[attr-defined]
        work = partial(self._score_parts, batch, backward=self._backward)
        scores = self._memory.run(work, f"step {self.state.global_step + 1}")
        self._tokens += int(batch["attention_mask"].sum())
        self._measures = scores.means()
        return scores.loss / scores.items

    def _score_parts(
        self, batch: Any, size: int, backward: Callable[[torch.Tensor], None] | None = None
    ) -> BatchScores:
        """Score a batch in parts of `size` examples; `backward` is called with each part's share of the mean loss."""
        total = self.count(batch)
        parts = []
        for part in self.split({name: batch[name] for name in self.columns}, size):
            scores = self.score(self.model, part)
            if backward:
                backward(scores.loss / total)
            parts.append(scores._replace(loss=scores.loss.detach()))
        return BatchScores.total(parts)

    def _backward(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            narrow = " or, since float16's range is small, train on the CPU" if self.args.fp16 else ""
            raise TrainingError(
                f"the loss is NaN or infinite after step {self.state.global_step}: use a lower learning_rate{narrow}"
            )
        self.accelerator.backward(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics that TRL's own loss would have added."""
        if "loss" in logs:
            logs = logs | self._measures | {"num_tokens": float(self._tokens)}
        super().log(logs, start_time)  # type: ignore[misc]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate the validation file: means over its tokens or pairs, independent of the batches.

        Raises:
            InsufficientMemory: memory ran out.
            PausedError: a pause was requested; a pass can be long, so it is not finished but repeated on resuming.
        """
        self.model.eval()
        parts = []
        with torch.no_grad():
            for inputs in self.get_eval_dataloader():  # type: ignore[attr-defined]
                if self._reporter.pause_requested:
                    raise PausedError(self._reporter.saved_step)
                work = partial(self._score_parts, self._prepare_inputs(inputs))  # type: ignore[attr-defined]
                parts.append(self._memory.run(work, f"the validation after step {self.state.global_step}"))
        self.model.train()
        scores = BatchScores.total(parts)
        metrics = {"eval_loss": float(scores.loss) / scores.items}
        metrics |= {f"eval_{name}": value for name, value in scores.means().items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Load the scale of the loss, unless the training goes on with a dtype that needs none."""
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)  # type: ignore[misc]

    def _get_train_sampler(self, *_: Any) -> LengthGroupedSampler:
        return LengthGroupedSampler(self._lengths, self.args.train_batch_size, self.args.seed)
