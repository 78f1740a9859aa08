"""Scores of answers' tokens by a model, without the logits of their prompts."""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from loramux_adapters.finetuning.recipes.memory import LOGITS_CHUNK_TOKENS
from loramux_adapters.finetuning.trainer.logits import logits_of


class TokenScores(NamedTuple):
    """Of each token of the answers of a batch, in the order of its rows: [tokens]."""

    losses: torch.Tensor
    """Negative log-probabilities, in nats."""
    correct: torch.Tensor
    """Whether the token is the most likely one."""


def score_tokens(causal: Any, inputs: Any, is_answer: torch.Tensor) -> TokenScores:
    """Score the tokens that follow those in `is_answer`, [rows, tokens - 1].

    `inputs` has `input_ids` and `attention_mask`, each [rows, tokens]; `causal` is the base with its adapter.

    Without Triton, TRL computes the logits of prompt tokens too and discards them: with a vocabulary of 49,000 and
    short answers this was a third of the work.
    """
    states = causal.get_decoder()(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state[:, :-1][is_answer]
    targets = inputs["input_ids"][:, 1:][is_answer]
    chunks = list(zip(states.split(LOGITS_CHUNK_TOKENS), targets.split(LOGITS_CHUNK_TOKENS), strict=True))
    losses, correct = zip(*(_score_chunk(causal, *chunk, is_only=len(chunks) == 1) for chunk in chunks), strict=True)
    return TokenScores(torch.cat(losses), torch.cat(correct))


def _score_chunk(causal: Any, states: Any, targets: Any, *, is_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Score a chunk of tokens; one of several recomputes its logits in the backward pass, to save memory."""

    def scored(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits_of(causal, states).float()
        return cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets

    return scored(states) if is_only else checkpoint(scored, states, use_reentrant=False)
