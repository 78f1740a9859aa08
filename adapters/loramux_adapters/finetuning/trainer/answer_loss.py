"""TRL's trainer with less work for the same result: only answers are scored, and like lengths share a batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler
from trl import SFTTrainer

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.recipes.memory import LOGITS_AT_ONCE
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, Reporter

IGNORED = -100
_BATCHES_ALIKE = 25
"""Of so many batches' examples, drawn at random, those of like lengths come together."""


class Scores(NamedTuple):
    """Sums over the answers' tokens of a batch: the loss, and how many tokens were the likeliest ones."""

    loss: torch.Tensor
    likeliest: torch.Tensor
    tokens: int


class AnswersTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not typed
    """An SFTTrainer for one device and models whose scores are `head(decoder(tokens))`: those of BaseSpec.

    TRL scores every token of a prompt too, where there is no Triton, and throws that away: with a vocabulary of 49,000
    and short answers this was a third of the work.
    """

    control: Any

    def __init__(self, *, reporter: Reporter, lengths: list[int], **options: Any) -> None:
        self._reporter, self._lengths = reporter, lengths
        self._tokens = 0
        self._accuracy = 0.0
        super().__init__(callbacks=[reporter], **options)

    def compute_loss(self, model: Any, inputs: Any, **_: Any) -> torch.Tensor:
        """Return the mean loss of a batch's answers; raises TrainingError if it is no number."""
        scores = self.score(model, inputs)
        if not torch.isfinite(scores.loss):
            raise TrainingError(
                f"the loss is not a number after step {self.state.global_step}: take a lower learning_rate"
            )
        self._tokens += int(inputs["attention_mask"].sum())
        self._accuracy = int(scores.likeliest) / scores.tokens
        return scores.loss / scores.tokens

    def score(self, model: Any, inputs: Any) -> Scores:
        """Score the answers in a batch of `input_ids`, `attention_mask` and `labels`, [examples, tokens] each."""
        causal = model.get_base_model()
        targets = inputs["labels"][:, 1:]
        learned = targets != IGNORED
        with self.accelerator.autocast():
            states = causal.get_decoder()(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).last_hidden_state[:, :-1][learned]
            parts = list(zip(states.split(LOGITS_AT_ONCE), targets[learned].split(LOGITS_AT_ONCE), strict=True))
            losses, likeliest = zip(
                *(self._score_part(causal, *part, alone=len(parts) == 1) for part in parts), strict=True
            )
        return Scores(torch.stack(losses).sum(), torch.stack(likeliest).sum(), int(learned.sum()))

    @staticmethod
    def _score_part(causal: Any, states: Any, targets: Any, *, alone: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Score some tokens; if they are not alone their logits are made anew for the backward pass, to save memory."""

        def scored(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = causal.get_output_embeddings()(states).float()
            return cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()

        return scored(states) if alone else checkpoint(scored, states, use_reentrant=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what TRL would have measured in its way."""
        if "loss" in logs:
            logs = logs | {"mean_token_accuracy": self._accuracy, "num_tokens": float(self._tokens)}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Look at the validation file: means over the tokens of its answers, however they fall into batches.

        Raises PausedError: the pass can be long, so who pauses amid it comes again to the last saved step.
        """
        self.model.eval()
        loss, likeliest, tokens = 0.0, 0, 0
        with torch.no_grad():
            for inputs in self.get_eval_dataloader():
                if self._reporter.is_pausing:
                    raise PausedError(self._reporter.saved_step)
                scores = self.score(self.model, self._prepare_inputs(inputs))
                loss, likeliest, tokens = (
                    loss + float(scores.loss),
                    likeliest + int(scores.likeliest),
                    tokens + scores.tokens,
                )
        self.model.train()
        metrics = {"eval_loss": loss / tokens, "eval_mean_token_accuracy": likeliest / tokens}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, *_: Any) -> "LikeLengths":
        return LikeLengths(self._lengths, self.args.train_batch_size, self.args.seed)


class LikeLengths(Sampler[int]):
    """An order of examples in which each batch holds some of like lengths: random, and the same for the same epoch."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch, also before the one that a resumed training is in."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=draw).tolist()
        alike = self._batch_size * _BATCHES_ALIKE
        batches = [
            batch
            for start in range(0, len(order), alike)
            for batch in self._batches(sorted(order[start : start + alike], key=self._lengths.__getitem__))
        ]
        *whole, last = batches  # the only one that may be smaller: it stays at the end
        for number in torch.randperm(len(whole), generator=draw).tolist():
            yield from whole[number]
        yield from last

    def _batches(self, order: list[int]) -> list[list[int]]:
        return [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
