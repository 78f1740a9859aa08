"""Log-probabilities of each token: by a server's own account, and by transformers and PEFT."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers
from peft import PeftModel


@dataclass(frozen=True)
class ScoredTokens:
    """Tokens, prompt and answer, and the log-probability of each but the first, in nats."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def complete(url: str, model: str, prompt: Sequence[int], max_tokens: int) -> ScoredTokens:
    """Request a greedy answer from `model`, with the log-probabilities of the prompt's and the answer's tokens."""
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 0,
        "prompt_logprobs": 0,
        "return_token_ids": True,
    }
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    entries = zip(prompt, choice["prompt_logprobs"], strict=True)
    of_prompt = [entry[str(token)]["logprob"] for token, entry in entries if entry]  # none for the first token
    answer = choice["token_ids"]
    assert len(answer) == max_tokens
    return ScoredTokens((*prompt, *answer), (*of_prompt, *choice["logprobs"]["token_logprobs"]))


class Reference:
    """A base and its adapters in transformers and PEFT."""

    def __init__(self, base: Path, architecture: str, dtype: torch.dtype) -> None:
        model_class = getattr(transformers, architecture)
        self._model: Any = model_class.from_pretrained(base, dtype=dtype, attn_implementation="eager").eval()
        self._dtype = dtype

    def score(self, adapter: Path | None, sequences: Sequence[ScoredTokens]) -> torch.Tensor:
        """Return the log-probabilities of the sequences' tokens but their first, with `adapter` or of the base."""
        if adapter is None:
            return torch.cat([self._score(self._model, sequence.tokens) for sequence in sequences])
        adapted = PeftModel.from_pretrained(self._model, adapter, autocast_adapter_dtype=False).to(self._dtype)
        scores = torch.cat([self._score(adapted, sequence.tokens) for sequence in sequences])
        adapted.unload()
        return scores

    @staticmethod
    @torch.inference_mode()
    def _score(model: Any, tokens: Sequence[int]) -> torch.Tensor:
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, :-1].float()
        scores: torch.Tensor = logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
        return scores
