"""Validates training files and reports on them, in one pass; keeps hashes instead of texts."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from loramux_adapters.finetuning.datasets.conversations import Conversation
from loramux_adapters.finetuning.datasets.examples import ChatMessage, Tool, iter_examples
from loramux_adapters.finetuning.datasets.ignored_keys import IgnoredKeys
from loramux_adapters.finetuning.datasets.kinds import Kind, detect_kind
from loramux_adapters.finetuning.datasets.lines import MAX_PROBLEMS
from loramux_adapters.finetuning.datasets.preferences import PreferencePair, iter_preferences
from loramux_adapters.finetuning.datasets.reader import iter_conversations
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter, DatasetReport
from loramux_adapters.finetuning.datasets.statistics import AnswerStatistics, LengthHistogram, hash_messages
from loramux_adapters.finetuning.errors import ChatTemplateError, InvalidDataset

MIN_EXAMPLES = 10
_RECOMMENDED_EXAMPLES = 50
_YIELD_EVERY, _YIELD_SECONDS = 50, 0.002
"""The checking thread sleeps after every 50 lines: the server's event loop needs the interpreter lock."""
_EXAMPLES = {"chat": "conversations", "preference": "preference pairs"}
_Line = TypeVar("_Line")


def inspect_dataset(path: Path, chat: ChatTokenCounter, context: int, name: str | None = None) -> DatasetReport:
    """Validate the file and report on it; an example may have at most `context` tokens. Errors call the file `name`.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    kind, name = detect_kind(path), name or path.name
    inspection = _Inspection(chat, context)
    if kind == "preference":
        for pair in _yielding(iter_preferences(path, name)):
            inspection.add_pair(pair)
    else:
        for conversation in _yielding(iter_conversations(path, name)):
            inspection.add_conversation(conversation)
    if inspection.problems:
        raise InvalidDataset(name, inspection.problems)
    if inspection.lines < MIN_EXAMPLES:
        found = f"the file has {inspection.lines} {_EXAMPLES[kind]}; expected at least {MIN_EXAMPLES}"
        raise InvalidDataset(name, [(inspection.last_line, found)])
    return inspection.report(kind)


def count_overlap(training: Path, validation: Path) -> int:
    """Return the number of lines in the validation file that share a prompt with the training file.

    Raises:
        InvalidDataset: has the first problems of a file with their line numbers.
        OSError: a file can't be read.
    """
    known = {prompt for prompts in _iter_prompts(training) for prompt in prompts}
    return sum(any(prompt in known for prompt in prompts) for prompts in _iter_prompts(validation))


def _iter_prompts(path: Path) -> Iterator[list[bytes]]:
    """Yield the hashes of the prompts of each line."""
    if detect_kind(path) == "preference":
        yield from ([hash_messages(pair.prompt, pair.tools)] for pair in iter_preferences(path))
    else:
        for conversation in iter_conversations(path):
            yield [hash_messages(example["prompt"], example["tools"]) for example in iter_examples(conversation)]


def _yielding(lines: Iterator[_Line]) -> Iterator[_Line]:
    for number, line in enumerate(lines, start=1):
        yield line
        if number % _YIELD_EVERY == 0:
            time.sleep(_YIELD_SECONDS)


class _Inspection:
    """The statistics of the lines added so far."""

    def __init__(self, chat: ChatTokenCounter, context: int) -> None:
        self._chat, self._context = chat, context
        self.problems: list[tuple[int, str]] = []
        self.lines = self.last_line = 0
        self._examples = self._trained = 0
        self._lengths, self._answers, self._ignored = LengthHistogram(context), AnswerStatistics(), IgnoredKeys()

    def add_conversation(self, conversation: Conversation) -> None:
        self._add_line(conversation.line, conversation.ignored_keys)
        whole, tools = [message.to_chat() for message in conversation.messages], conversation.chat_tools
        self._answers.add_line(hash_messages(whole, tools))
        try:
            for example in iter_examples(conversation):
                self._measure(example["prompt"], example["completion"], tools)
                self._examples += 1
                answer = hash_messages(example["completion"])
                self._answers.add_fact(hash_messages(example["prompt"], tools), answer)
                self._answers.add_answer(answer)
        except ChatTemplateError as refused:  # shorter examples of this conversation would be refused too
            self._add_problem(conversation.line, refused.message)

    def add_pair(self, pair: PreferencePair) -> None:
        self._add_line(pair.line, pair.ignored_keys)
        self._examples += 1
        prompt, tools = pair.prompt, pair.tools
        self._answers.add_line(hash_messages([*prompt, pair.preferred, pair.rejected], tools))
        self._answers.add_answer(hash_messages([pair.preferred]))
        try:
            for rank, answer in ((b"preferred", pair.preferred), (b"rejected", pair.rejected)):
                self._measure(prompt, [answer], tools)
                self._answers.add_fact(hash_messages([*prompt, answer], tools), rank)
        except ChatTemplateError as refused:
            self._add_problem(pair.line, refused.message)

    def _add_line(self, line: int, ignored_keys: frozenset[str]) -> None:
        self.lines, self.last_line = self.lines + 1, line
        self._ignored.add(ignored_keys)

    def _add_problem(self, line: int, reason: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append((line, reason))

    def _measure(self, prompt: list[ChatMessage], answer: list[ChatMessage], tools: Sequence[Tool]) -> None:
        length = self._chat.count_conversation(prompt + answer, tools)
        if length > self._context:
            raise ChatTemplateError(f"{length} tokens; expected at most the context of {self._context}")
        self._trained += length - self._chat.count_prompt(prompt, tools)
        self._lengths.add(length)

    def report(self, kind: Kind) -> DatasetReport:
        answers, commonest = self._answers, self._answers.commonest
        share = None if commonest is None else commonest / self._examples
        shortest, median, p95, longest = self._lengths.quantiles(0, 0.5, 0.95, 1)
        return DatasetReport(
            kind=kind,
            conversations=self.lines,
            examples=self._examples,
            tokens=self._lengths.tokens,
            trained_tokens=self._trained,
            shortest=shortest,
            median=median,
            p95=p95,
            longest=longest,
            duplicates=answers.duplicates,
            contradictions=answers.contradictions,
            distinct_answers=answers.distinct,
            commonest_answer_share=share,
            warnings=(*_warnings(kind, self._examples, self.lines, answers, share), *self._ignored.warnings()),
        )


def _warnings(
    kind: Kind, examples: int, lines: int, answers: AnswerStatistics, commonest: float | None
) -> Iterator[str]:
    if examples < _RECOMMENDED_EXAMPLES and kind == "chat":
        yield f"only {examples} examples: first try the base with them in its prompt"
    if answers.duplicates * 10 > lines:
        yield f"{answers.duplicates} of {lines} {_EXAMPLES[kind]} occur more than once"
    if answers.contradictions * 20 > examples:
        yield f"{answers.contradictions} answers {_CONTRADICTIONS[kind]}"
    if commonest is not None and commonest > 0.5:
        yield f"{commonest:.0%} of the answers are the same: the adapter may learn to give no other"


_CONTRADICTIONS = {
    "chat": "differ from an earlier one to the same prompt",
    "preference": "are preferred in one pair and not preferred in another, or are both answers of a pair",
}
