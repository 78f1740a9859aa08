"""Reading held-out items and prompts from files, and the messages that ask an item with a prompt."""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.conversation_lines import ConversationLine, Message
from loramux_loadtests.compare.errors import ComparisonError

MAX_PROBLEMS = 10
SYSTEM_ROLES = frozenset({"system", "developer"})

_REQUEST_PARAMETERS = {
    "tool_choice", "functions", "function_call", "response_format", "stop",
    "temperature", "top_p", "n", "seed", "logit_bias", "presence_penalty", "frequency_penalty", "max_tokens",
    "max_completion_tokens", "reasoning_effort", "modalities", "chat_template_kwargs",
}  # fmt: skip
"""Keys of a line that would change the answer, if they were sent."""


_PROMPT = TypeAdapter(list[Message])


class ItemFile(NamedTuple):
    """The items of a file, and the keys of its lines that are not sent, such as `id`."""

    items: list[Item]
    notes: frozenset[str]


def read_items(path: Path) -> ItemFile:
    """Read a file in OpenAI's chat fine-tuning format; the last message of each line is the expected answer.

    Raises:
        ComparisonError: the file can't be read, or has what a comparison does not send (images, settings of a request);
            the message has the first problems with their line numbers.
    """
    items: list[Item] = []
    notes: set[str] = set()
    problems = []
    # Only a line feed ends a line: JSON strings may contain other Unicode line separators.
    for number, text in enumerate(_read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = ConversationLine.model_validate_json(text)
            notes |= _notes(line)
        except ValueError as error:
            problems.append(f"line {number}: {_first_problem(error)}")
            continue
        *question, answer = line.messages
        tools = [tool.model_dump(exclude_unset=True) for tool in line.tools or ()]
        asked, expected = [message.as_sent() for message in question], answer_text(answer.as_sent())
        items.append(Item(asked, expected, tools, line.parallel_tool_calls is not False))
    if problems or not items:
        shown = problems[:MAX_PROBLEMS] or ["it is empty"]
        more = f", and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        raise ComparisonError(f"{path.name} can't be read: {'; '.join(shown)}{more}")
    return ItemFile(items, frozenset(notes))


def _notes(line: ConversationLine) -> set[str]:
    keys = {key for key, value in (line.model_extra or {}).items() if value not in (None, [], {})}
    if refused := sorted(keys & _REQUEST_PARAMETERS):
        raise ValueError(f"{refused[0]!r} is not sent by a comparison, and would change the answer: remove it")
    return keys | {f"messages.{key}" for message in line.messages for key in message.unknown_keys}


def read_prompt(path: Path, examples: int | None = None) -> Chat:
    """Read the messages to put before each question: a JSON list of messages, or a text as the system message.

    With `examples`, at most that many pairs of a user's and an assistant's message are kept.

    Raises:
        ComparisonError: the file can't be read, is not a list of messages, or has fewer examples.
    """
    text = _read_text(path)
    if path.suffix == ".json":
        prompt = _parse_prompt(path, text)
    else:
        prompt = [{"role": "system", "content": text.strip()}] if text.strip() else []
    return prompt if examples is None else _first_examples(path, prompt, examples)


def _parse_prompt(path: Path, text: str) -> Chat:
    try:
        return [message.as_sent() for message in _PROMPT.validate_json(text)]
    except ValidationError as error:
        raise ComparisonError(f"{path.name} must be a JSON list of messages: {_first_problem(error)}") from error


def _first_examples(path: Path, prompt: Chat, count: int) -> Chat:
    system = system_messages(prompt)
    shots = prompt[len(system) :]
    if [message["role"] for message in shots] != ["user", "assistant"] * (len(shots) // 2):
        raise ComparisonError(f"{path.name}: `examples` needs pairs of a user's and an assistant's message")
    if 2 * count > len(shots):
        raise ComparisonError(f"{path.name} has {len(shots) // 2} examples, fewer than {count}")
    return [*system, *shots[: 2 * count]]


def system_messages(chat: Chat) -> Chat:
    """The system messages that a chat begins with."""
    length = next((place for place, message in enumerate(chat) if message["role"] not in SYSTEM_ROLES), len(chat))
    return chat[:length]


def add_prompt(prompt: Chat, question: Chat) -> Chat:
    """Return the messages that ask a question with a prompt before it.

    The question's own system messages stay, unless the prompt has some: then these replace them. Examples in the
    prompt come between the system messages and the other messages of the question.
    """
    own = system_messages(question)
    turns = question[len(own) :]
    return [*prompt, *turns] if system_messages(prompt) else [*own, *prompt, *turns]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{path.name} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first: Any = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
