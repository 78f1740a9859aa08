"""Prompts: the n-th request of each route has the n-th prompt, on every route and server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from numpy.random import Generator, default_rng
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loramux_loadtests.client import ChatClient, Message
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import fail_at_line, first_validation_error, json_lines, read_text

TOKENS_PER_NUMBER = 6.0
"""Default, for a tokenizer with one token per digit; `measure_tokens` measures the server's."""
SHORT_PROMPT_NUMBERS = 4
PROBE_NUMBERS = (8, 72)
"""How many numbers are in the two prompts that measure a tokenizer."""

Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class TokenRange(BaseModel):
    """A number of tokens: fixed, or drawn uniformly from `low` to `high`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Tokens
    high: Tokens

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        return {"low": value, "high": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _ends_in_order(self) -> "TokenRange":
        if self.low > self.high:
            raise ValueError(f"`low` ({self.low}) is above `high` ({self.high})")
        return self


class InputOptions(BaseModel):
    """Synthetic prompts of about `tokens` tokens (random numbers), or the prompts of a JSONL `corpus`.

    A line of a corpus has `messages` or `prompt`, and optionally `output_tokens`. A final answer is ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: TokenRange = TokenRange(low=64, high=64)
    corpus: Path | None = None


class OutputOptions(BaseModel):
    """Answer lengths: exactly `tokens` (vLLM's ignore_eos and min_tokens), or at most `tokens` if `natural`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: TokenRange = TokenRange(low=32, high=32)
    natural: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Use more than 0 with random weights: the most likely token of such a model may have no text."""


class _CorpusLine(BaseModel):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    output_tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The messages of one request, and the length of its answer."""

    messages: Sequence[Message]
    max_tokens: int


class PromptSource:
    """The prompts of a load test by number, equal for equal `seed`."""

    def __init__(
        self, inputs: InputOptions, outputs: OutputOptions, seed: int, *, tokens_per_number: float = TOKENS_PER_NUMBER
    ) -> None:
        self._input, self._output, self._seed = inputs, outputs, seed
        self._tokens_per_number = tokens_per_number
        self._corpus = read_corpus(inputs.corpus) if inputs.corpus else []
        self._order = default_rng(seed).permutation(len(self._corpus))

    def prompt(self, number: int, input_tokens: int | None = None, output_tokens: int | None = None) -> ChatPrompt:
        """Return the prompt with this `number`. A trace's lengths take precedence over the scenario's."""
        rng = default_rng([self._seed, number])
        lengths = self._input.tokens, self._output.tokens
        drawn = [int(rng.integers(length.low, length.high, endpoint=True)) for length in lengths]
        if self._corpus:
            messages, length = self._corpus[self._order[number % len(self._corpus)]]
            return ChatPrompt(messages, output_tokens or length or drawn[1])
        numbers = max(1, round((input_tokens or drawn[0]) / self._tokens_per_number))
        return ChatPrompt(conversation(random_prompts(1, rng, numbers)[0]), output_tokens or drawn[1])


def random_prompts(count: int, rng: Generator, numbers: int = SHORT_PROMPT_NUMBERS) -> list[str]:
    """Return `count` prompts that differ from the first digit on, with about six tokens per number in them."""
    return [" ".join(map(str, row)) for row in rng.integers(10**5, size=(count, numbers))]


def conversation(text: str) -> list[Message]:
    """Put `text` into the system message: a chat template's default one would be a prefix that all prompts share."""
    return [{"role": "system", "content": text}, {"role": "user", "content": "Go on."}]


def read_corpus(path: Path) -> list[tuple[list[dict[str, Any]], int | None]]:
    """Read conversations, without their final answers, and the lengths of the answers where a line has one.

    Raises:
        LoadTestError: the file can't be read, or a line of it is invalid.
    """
    found = []
    for number, fields in json_lines(path, read_text(path)):
        try:
            line = _CorpusLine.model_validate(fields)
        except ValidationError as error:
            fail_at_line(path, number, first_validation_error(error))
        messages = line.messages or ([{"role": "user", "content": line.prompt}] if line.prompt else [])
        if messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        if not messages:
            fail_at_line(path, number, "expected `messages` or a `prompt`")
        found.append((messages, line.output_tokens))
    if not found:
        raise LoadTestError(f"{path} contains no prompt")
    return found


async def measure_tokens(client: ChatClient, model: str) -> float:
    """Measure how many tokens the server's tokenizer makes of one number in a prompt.

    Returns TOKENS_PER_NUMBER if the server does not count tokens.

    Raises:
        LoadTestError: the server does not answer.
    """
    counts = []
    for numbers in PROBE_NUMBERS:
        reply = await client.chat(model, conversation(random_prompts(1, default_rng(0), numbers)[0]), max_tokens=1)
        if not reply.ok:
            raise LoadTestError(f"{client.url} does not answer requests for {model}: {reply.error}")
        counts.append(reply.input_tokens)
    slope = (counts[1] - counts[0]) / (PROBE_NUMBERS[1] - PROBE_NUMBERS[0])
    return slope if slope > 0 else TOKENS_PER_NUMBER
