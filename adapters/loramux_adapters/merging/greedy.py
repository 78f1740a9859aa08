"""Greedy answers of two models to the same conversations, and where they differ."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.merging.request import Difference

_TIES = {torch.float32: 0.01}
_COARSE_TIE = 0.25
"""The logits of a head are in the tens, where neighbors of 16 bits are about an eighth apart."""


def tie_of(dtype: torch.dtype) -> float:
    """Return the gap between two tokens' log-probabilities, in nats, that rounding to `dtype` can turn around."""
    return _TIES.get(dtype, _COARSE_TIE)


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, and the log-probabilities of all tokens at each of them: answer length x vocabulary."""

    tokens: list[int]
    log_probabilities: torch.Tensor


class GreedyAnswers:
    """Asks models with one tokenizer; conversations are rendered by its chat template, if it has one."""

    def __init__(self, tokenizer: Any, conversations: list[list[dict[str, Any]]], max_tokens: int) -> None:
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._prompts = [self._prompt(messages) for messages in conversations]

    def ask(self, model: Any) -> list[Answer]:
        """Return the model's greedy answer to each conversation."""
        model.eval()
        with torch.inference_mode():
            return [self._answer(model, prompt) for prompt in self._prompts]

    def differences(self, adapter: list[Answer], merged: list[Answer]) -> list[Difference]:
        """Return where the answers of the merged model are not the adapter's."""
        pairs = enumerate(zip(adapter, merged, strict=True))
        return [self._difference(number, *pair) for number, pair in pairs if pair[0].tokens != pair[1].tokens]

    def _prompt(self, messages: list[dict[str, Any]]) -> torch.Tensor:
        if self._tokenizer.chat_template is None:
            text = "\n".join(content_text(message.get("content")) for message in messages)
            ids = self._tokenizer(text, return_tensors="pt")["input_ids"]
        else:
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        return torch.as_tensor(ids)

    def _answer(self, model: Any, prompt: torch.Tensor) -> Answer:
        # Not the base's generation config, which may sample or penalize repetitions.
        eos = model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        config = GenerationConfig(do_sample=False, max_new_tokens=self._max_tokens, eos_token_id=eos, pad_token_id=0)
        ids = prompt.to(model.device)
        generated = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.cat(generated.logits).float().cpu()
        tokens = generated.sequences[0, ids.shape[1] :].tolist()
        return Answer(tokens, logits.log_softmax(-1))

    def _difference(self, number: int, adapter: Answer, merged: Answer) -> Difference:
        pairs = zip(adapter.tokens, merged.tokens, strict=False)
        first = next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        if first is None:  # equal so far, so both would have gone on alike: one has stopped because of rounding
            raise RuntimeError("One answer is the beginning of the other.")
        at = adapter.log_probabilities[first]
        return Difference(
            conversation=number,
            token=first,
            gap=float(at[adapter.tokens[first]] - at[merged.tokens[first]]),
            adapter=self._tokenizer.decode(adapter.tokens, skip_special_tokens=True),
            merged=self._tokenizer.decode(merged.tokens, skip_special_tokens=True),
        )
