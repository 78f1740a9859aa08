"""Training examples: one per answer of a conversation, in TRL's format."""

from collections.abc import Iterator
from typing import TypedDict

from loramux_adapters.finetuning.datasets.conversations import Conversation


class Example(TypedDict):
    """One training example in TRL's format: the loss is computed on the completion only."""

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]


def examples_of(conversations: list[Conversation]) -> list[Example]:
    """Return one example per assistant message to train on, with all messages before it as the prompt."""
    return [example for conversation in conversations for example in reversed([*iter_examples(conversation)])]


def iter_examples(conversation: Conversation) -> Iterator[Example]:
    """Yield the examples of one conversation, longest first.

    A line of 1 MiB can have thousands of answers: a caller that refuses the longest example never creates the others,
    and all examples share the messages.
    """
    messages = [message.to_chat() for message in conversation.messages]
    for position in reversed(range(len(messages))):
        if conversation.messages[position].is_trained_on:
            yield Example(prompt=messages[:position], completion=[messages[position]])
