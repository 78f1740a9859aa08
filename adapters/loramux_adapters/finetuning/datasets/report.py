"""The report on a training file: number, lengths and similarity of its examples."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.datasets.kinds import Kind
from loramux_adapters.finetuning.template_messages import Messages, Tools


class ChatTokenCounter(Protocol):
    """Counts tokens as the trainer does, with the base's chat template.

    Raises:
        ChatTemplateError: the template can't render the messages (all methods).
    """

    def count_prompt(self, messages: Messages, tools: Tools = ()) -> int:
        """Return the number of tokens of a prompt."""

    def count_conversation(self, messages: Messages, tools: Tools = ()) -> int:
        """Return the number of tokens of a conversation that ends with an answer."""


class DatasetReport(BaseModel):
    """Statistics of a valid training file. Lengths are of one answer with its prompt, in tokens."""

    model_config = ConfigDict(frozen=True)

    kind: Kind = "chat"
    """`chat`: conversations; `preference`: pairs of a preferred and a non-preferred answer."""
    conversations: int
    """Lines of the file that are not blank."""
    examples: int
    """Answers to train on, of which a conversation may have several; or preference pairs."""
    tokens: int
    """Of all answers with their prompts, also of both answers of a pair."""
    trained_tokens: int
    """Tokens of the answers, on which the loss is computed."""
    shortest: int
    median: int
    p95: int
    longest: int
    duplicates: int
    """Lines that also occur earlier in the file."""
    contradictions: int
    """Answers that differ from an earlier one to the same prompt; or that are preferred to it once and not another
    time."""
    distinct_answers: int | None
    """None if there are more than 1,000."""
    commonest_answer_share: float | None
    warnings: tuple[str, ...]
