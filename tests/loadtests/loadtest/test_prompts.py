import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.prompts import InputOptions, OutputOptions, PromptSource, measure_tokens, read_corpus
from tests.helpers.scripted_server import FakeServer, serving


def text(source: PromptSource, number: int) -> str:
    return str(source.prompt(number).messages[0]["content"])


def test_the_prompt_of_a_number_is_always_the_same_and_begins_unlike_any_other() -> None:
    one, other = (PromptSource(InputOptions(), OutputOptions(), seed=3) for _ in range(2))
    texts = [text(one, number) for number in (5, 0, 1, 2)]
    assert texts == [text(other, number) for number in (5, 0, 1, 2)]
    assert len({words.split()[0] for words in texts}) == 4
    assert text(one, 5) != text(PromptSource(InputOptions(), OutputOptions(), seed=4), 5)


def test_lengths_are_drawn_between_their_ends() -> None:
    inputs = InputOptions.model_validate({"tokens": {"low": 60, "high": 120}})
    outputs = OutputOptions.model_validate({"tokens": {"low": 2, "high": 4}})
    source = PromptSource(inputs, outputs, 0, tokens_per_number=3)
    assert {len(text(source, number).split()) for number in range(500)} == set(range(20, 41))
    assert {source.prompt(number).max_tokens for number in range(100)} == {2, 3, 4}


def test_a_traces_lengths_go_before_the_scenarios() -> None:
    question = PromptSource(InputOptions(), OutputOptions(), 0, tokens_per_number=6).prompt(1, 600, 77)
    assert (len(str(question.messages[0]["content"]).split()), question.max_tokens) == (100, 77)


def test_a_corpus_is_asked_in_an_order_of_the_seed_without_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    lines: list[Any] = [{"prompt": str(number)} for number in range(8)]
    question = {"role": "user", "content": "8"}
    lines.append({"messages": [question, {"role": "assistant", "content": "no"}], "output_tokens": 9, "other": 1})
    path.write_text("\n".join(map(json.dumps, lines)))
    source = PromptSource(InputOptions(corpus=path), OutputOptions(), 1)
    prompts = [source.prompt(number) for number in range(9)]
    assert sorted(str(each.messages[0]["content"]) for each in prompts) == [str(number) for number in range(9)]
    assert [each.max_tokens for each in prompts if each.messages == [question]] == [9]
    assert source.prompt(9).messages == prompts[0].messages
    assert [each.messages for each in prompts] != [messages for messages, _ in read_corpus(path)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"prompt": "a"}\n{"prompt": ""}', "line 2: prompt"),
        ('{"prompt": "a"}\n\n{"promt": "b"}', "line 3: expected `messages`"),
        ('{"messages": []}', "line 1: messages"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "line 1: expected `messages`"),
        ('{"prompt": "a", "output_tokens": 0}', "line 1: output_tokens"),
        ('{"prompt": "a"}\n{', "line 2: this is not JSON"),
        ("\n", "contains no prompt"),
    ],
)
def test_a_broken_corpus_is_refused_with_the_line(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(content)
    with pytest.raises(LoadTestError, match=reason):
        read_corpus(path)


@pytest.mark.parametrize("tokens", [0, -1, {"low": 5, "high": 4}, "many"])
def test_invalid_lengths_are_refused(tokens: object) -> None:
    with pytest.raises(ValidationError):
        OutputOptions.model_validate({"tokens": tokens})


async def test_the_servers_tokenizer_is_measured_by_the_difference_of_two_prompts() -> None:
    async with serving(FakeServer()) as fake, ChatClient(fake.url) as client:
        assert await measure_tokens(client, "tiny") == 3.0


async def test_a_server_that_rejects_the_first_request_is_an_error() -> None:
    async with serving(FakeServer(error_status=lambda _: 503)) as fake, ChatClient(fake.url) as client:
        with pytest.raises(LoadTestError, match="503 not today"):
            await measure_tokens(client, "tiny")
