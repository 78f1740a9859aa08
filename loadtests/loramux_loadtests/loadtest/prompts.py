"""What is asked: the n-th request of a route has the n-th prompt, whichever route and server it goes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from numpy.random import Generator, default_rng
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loramux_loadtests.client import Client, Message
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import first_reason, json_lines, read_text, refuse

TOKENS_PER_NUMBER = 6.0
"""Of a tokenizer that knows single digits; `measure_tokens` asks the server for its own."""
SHORT_PROMPT_NUMBERS = 4
PROBES = (8, 72)
"""Numbers in the two prompts by which a tokenizer is measured."""

Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class Length(BaseModel):
    """A number of tokens: always the same, or drawn evenly between two ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Tokens
    high: Tokens

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        return {"low": value, "high": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _ends_in_order(self) -> "Length":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class Input(BaseModel):
    """Prompts made of numbers, of about `tokens` tokens, or those of a JSONL `corpus`.

    A line of a corpus has `messages` (a conversation without its answer) or `prompt`, and may have `output_tokens`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Length = Length(low=64, high=64)
    corpus: Path | None = None


class Output(BaseModel):
    """How long answers are: exactly `tokens` (vLLM's ignore_eos and min_tokens), or at most, if `natural`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Length = Length(low=32, high=32)
    natural: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """More than 0 where the weights are random: the likeliest token of such a model may have no text."""


class _CorpusLine(BaseModel):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    output_tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks."""

    messages: Sequence[Message]
    max_tokens: int


class Book:
    """All prompts of a load test, by number: equal for equal `seed`."""

    def __init__(
        self, asked: Input, answered: Output, seed: int, *, tokens_per_number: float = TOKENS_PER_NUMBER
    ) -> None:
        self._input, self._output, self._seed = asked, answered, seed
        self._tokens_per_number = tokens_per_number
        self._corpus = read_corpus(asked.corpus) if asked.corpus else []
        self._order = default_rng(seed).permutation(len(self._corpus))

    def question(self, number: int, input_tokens: int | None = None, output_tokens: int | None = None) -> Question:
        """The prompt of this `number`, with lengths that a trace may have given."""
        chance = default_rng([self._seed, number])
        lengths = self._input.tokens, self._output.tokens
        drawn = [int(chance.integers(length.low, length.high, endpoint=True)) for length in lengths]
        if self._corpus:
            messages, length = self._corpus[self._order[number % len(self._corpus)]]
            return Question(messages, output_tokens or length or drawn[1])
        numbers = max(1, round((input_tokens or drawn[0]) / self._tokens_per_number))
        return Question(conversation(random_prompts(1, chance, numbers)[0]), output_tokens or drawn[1])


def random_prompts(count: int, rng: Generator, numbers: int = SHORT_PROMPT_NUMBERS) -> list[str]:
    """Return `count` prompts that differ from the first digit on, with about six tokens per number in them."""
    return [" ".join(map(str, row)) for row in rng.integers(10**5, size=(count, numbers))]


def conversation(text: str) -> list[Message]:
    """Put `text` into the system message: a chat template's default one would be a prefix that all prompts share."""
    return [{"role": "system", "content": text}, {"role": "user", "content": "Go on."}]


def read_corpus(path: Path) -> list[tuple[list[dict[str, Any]], int | None]]:
    """Conversations, without the answer that may end them, and its length. LoadTestError names a wrong line."""
    found = []
    for number, fields in json_lines(path, read_text(path)):
        try:
            line = _CorpusLine.model_validate(fields)
        except ValidationError as error:
            refuse(path, number, first_reason(error))
        messages = line.messages or ([{"role": "user", "content": line.prompt}] if line.prompt else [])
        if messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        if not messages:
            refuse(path, number, "neither `messages` nor a `prompt` to ask")
        found.append((messages, line.output_tokens))
    if not found:
        raise LoadTestError(f"{path} holds no prompt")
    return found


async def measure_tokens(client: Client, model: str) -> float:
    """Tokens that the server's tokenizer makes of a number in a prompt; the usual value if it does not count them.

    LoadTestError if the server refuses to answer at all.
    """
    counts = []
    for numbers in PROBES:
        reply = await client.chat(model, conversation(random_prompts(1, default_rng(0), numbers)[0]), max_tokens=1)
        if not reply.ok:
            raise LoadTestError(f"{client.url} does not answer for {model}: {reply.error}")
        counts.append(reply.input_tokens)
    slope = (counts[1] - counts[0]) / (PROBES[1] - PROBES[0])
    return slope if slope > 0 else TOKENS_PER_NUMBER
