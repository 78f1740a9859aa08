import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.finetuning.datasets.conversations import parse_conversation
from loramux_adapters.finetuning.datasets.inspection import count_overlap, inspect_dataset
from loramux_adapters.finetuning.datasets.preferences import is_preference, parse_preference
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.errors import ChatTemplateError, InvalidDataset
from tests.helpers.fine_tuning_jobs import CharacterTokens


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_tokens_and_lengths_are_counted(tmp_path: Path) -> None:
    lines = [chat("q" * number, "aa") for number in range(1, 21)]
    report = inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 100)
    assert (report.conversations, report.examples) == (20, 20)
    assert (report.tokens, report.trained_tokens) == (sum(range(1, 21)) + 40, 40)
    assert (report.shortest, report.median, report.p95, report.longest) == (3, 12, 21, 22)
    assert report.distinct_answers == 1
    assert any("100% of the answers are the same" in warning for warning in report.warnings)


def test_duplicates_and_contradictions_are_reported(tmp_path: Path) -> None:
    lines = [chat(str(number), str(number)) for number in range(10)]
    report = inspect_dataset(written(tmp_path / "a", *lines, *lines[:3], chat("1", "other")), CharacterTokens(), 100)
    assert (report.duplicates, report.contradictions) == (3, 1)
    assert any("3 of 14 conversations occur more than once" in warning for warning in report.warnings)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="the file has 9 conversations; expected at least 10"):
        inspect_dataset(written(tmp_path / "a", *[chat("q", "a")] * 9), CharacterTokens(), 100)


def test_examples_beyond_the_context_are_refused_with_their_lines(tmp_path: Path) -> None:
    lines = [chat("q", "a")] * 10
    lines[3] = lines[8] = chat("q" * 50, "a")
    with pytest.raises(InvalidDataset) as refused:
        inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 50)
    assert refused.value.problems == [(number, "51 tokens; expected at most the context of 50") for number in (4, 9)]


def test_a_conversation_that_the_template_refuses_is_reported_with_its_line(tmp_path: Path) -> None:
    class Strict(CharacterTokens):
        def count_prompt(self, messages: Any, tools: Any = ()) -> int:
            if len(messages) > 2:
                raise ChatTemplateError("the base's chat template refuses it: roles must alternate")
            return super().count_prompt(messages)

        count_conversation = count_prompt

    lines = [chat("q", "a")] * 12
    lines[4] = {
        "messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "q"}, lines[0]["messages"][1]]
    }
    with pytest.raises(InvalidDataset) as refused:
        inspect_dataset(written(tmp_path / "a", *lines), Strict(), 100)
    assert refused.value.problems == [(5, "the base's chat template refuses it: roles must alternate")]


def test_a_line_of_thousands_of_turns_is_refused_by_its_longest_example_alone(tmp_path: Path) -> None:
    counted: list[int] = []

    class Counting(CharacterTokens):
        def count_conversation(self, messages: Any, tools: Any = ()) -> int:
            counted.append(len(messages))
            return self.count_prompt(messages)

    lines = [chat("q", "a")] * 10
    lines[4] = {"messages": chat("q", "a")["messages"] * 5000}
    with pytest.raises(InvalidDataset) as refused:
        inspect_dataset(written(tmp_path / "a", *lines), Counting(), 50)
    assert refused.value.problems == [(5, "10000 tokens; expected at most the context of 50")]
    assert sorted(counted) == [2] * 9 + [10_000]


def test_messages_after_the_last_trained_answer_do_not_count(tmp_path: Path) -> None:
    messages = [*chat("q", "a")["messages"], {"role": "user", "content": "q" * 99}]
    lines = [{"messages": [*messages, {"role": "assistant", "content": "a", "weight": 0}]}] * 10
    assert inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 50).longest == 2


def test_a_warning_names_each_ignored_key_once(tmp_path: Path) -> None:
    lines = [chat(str(number), "a") | {"id": number} for number in range(60)]
    lines[7]["metadata"] = {}
    report = inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 100)
    assert [warning for warning in report.warnings if "ignored" in warning] == [
        "the key `id` is ignored (lines with it: 60)",
        "the key `metadata` is ignored (lines with it: 1)",
    ]


def test_a_new_unknown_key_in_each_line_gives_few_warnings(tmp_path: Path) -> None:
    lines = [chat(str(number), "a") | {f"key {number}": 1} for number in range(60)]
    report = inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 100)
    ignored = [warning for warning in report.warnings if "ignored" in warning]
    assert (len(ignored), ignored[-1]) == (11, "further unknown keys are ignored")


def test_errors_have_the_users_name_of_the_file_and_the_numbers_of_its_lines(tmp_path: Path) -> None:
    lines = ["\n", *(json.dumps(chat("q", "a")) + "\n" for _ in range(9)), json.dumps(chat("q" * 99, "a"))]
    path = tmp_path / "incoming-file-1"
    path.write_text("".join(lines))
    with pytest.raises(InvalidDataset, match=r"upload is not a valid training file:\n  line 11: 100 tokens"):
        inspect_dataset(path, CharacterTokens(), 50, "upload")
    path.write_text(json.dumps(chat("q", "")))
    with pytest.raises(InvalidDataset, match=r"upload is not a valid training file:\n  line 1: messages\.1"):
        inspect_dataset(path, CharacterTokens(), 50, "upload")


def test_a_report_of_an_earlier_release_is_of_conversations() -> None:
    fields = dict.fromkeys(("conversations", "examples", "tokens", "trained_tokens", "shortest", "median"), 1)
    more = dict.fromkeys(("p95", "longest", "duplicates", "contradictions", "distinct_answers"), 1)
    old: dict[str, Any] = fields | more | {"commonest_answer_share": None, "warnings": []}
    assert DatasetReport.model_validate(old).kind == "chat"


def pair(question: str, preferred: str, rejected: str) -> dict[str, Any]:
    messages = [chat(question, answer)["messages"] for answer in (preferred, rejected)]
    return {
        "input": {"messages": messages[0][:1]},
        "preferred_output": messages[0][1:],
        "non_preferred_output": messages[1][1:],
    }


def test_preference_pairs_are_counted_with_both_answers(tmp_path: Path) -> None:
    lines = [pair("q" * number, "aaaa", "b") for number in range(1, 11)]
    report = inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 100)
    assert (report.kind, report.conversations, report.examples) == ("preference", 10, 10)
    assert (report.tokens, report.trained_tokens) == (2 * sum(range(1, 11)) + 50, 50)
    assert (report.shortest, report.longest) == (2, 14)
    assert (report.duplicates, report.contradictions, report.distinct_answers) == (0, 0, 1)


def test_pairs_that_contradict_each_other_or_themselves_are_counted(tmp_path: Path) -> None:
    lines = [pair(str(number), "a", "b") for number in range(10)]
    path = written(tmp_path / "a", *lines, pair("3", "b", "c"), pair("x", "same", "same"), lines[0])
    report = inspect_dataset(path, CharacterTokens(), 100)
    assert (report.duplicates, report.contradictions) == (1, 2)
    assert any("2 answers are preferred in one pair and not preferred in another" in text for text in report.warnings)


def test_a_pair_beyond_the_context_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = [pair("q", "a", "b")] * 10
    lines[4] = pair("q", "a", "b" * 99)
    with pytest.raises(InvalidDataset) as refused:
        inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 50)
    assert refused.value.problems == [(5, "100 tokens; expected at most the context of 50")]


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="the file has 9 preference pairs; expected at least 10"):
        inspect_dataset(written(tmp_path / "a", *[pair("q", "a", "b")] * 9), CharacterTokens(), 100)


def test_the_overlap_of_preference_files_is_counted(tmp_path: Path) -> None:
    training = written(tmp_path / "a", pair("1", "x", "y"), pair("2", "x", "y"))
    assert count_overlap(training, written(tmp_path / "b", pair("2", "u", "v"), pair("3", "x", "y"))) == 1


def test_the_same_prompt_with_other_tools_is_another_prompt(tmp_path: Path) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "a"}}]}
    training = written(tmp_path / "a", chat("1", "x") | tools)
    assert count_overlap(training, written(tmp_path / "b", chat("1", "x"))) == 0
    with_tools = pair("1", "x", "y")
    with_tools["input"] |= tools
    assert count_overlap(written(tmp_path / "a", with_tools), written(tmp_path / "b", pair("1", "x", "y"))) == 0


def test_the_order_of_keys_makes_no_other_line(tmp_path: Path) -> None:
    lines = [chat(str(number), "a") for number in range(10)]
    schema = {"type": "object", "properties": {}}
    for line, keys in zip(lines[:2], (["type", "properties"], ["properties", "type"]), strict=True):
        function = {"name": "a", "parameters": {key: schema[key] for key in keys}}
        line |= chat("same", "a") | {"tools": [{"function": function}]}
    assert inspect_dataset(written(tmp_path / "a", *lines), CharacterTokens(), 100).duplicates == 1


def test_the_end_of_a_file_with_too_few_examples_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("\n\n" + json.dumps(chat("q", "a")))
    with pytest.raises(InvalidDataset, match="line 3: the file has 1 conversations"):
        inspect_dataset(path, CharacterTokens(), 100)


def test_prompts_of_the_validation_file_that_were_trained_on_are_counted(tmp_path: Path) -> None:
    training = written(tmp_path / "a", chat("1", "x"), chat("2", "x"))
    assert count_overlap(training, written(tmp_path / "b", chat("2", "y"), chat("3", "x"))) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300) | st.lists(st.text(max_size=30)).map(lambda lines: "\n".join(lines).encode()))
def test_any_bytes_give_a_report_or_a_list_of_problems(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    with pytest.raises(InvalidDataset) as refused:
        inspect_dataset(path, CharacterTokens(), 100)
    assert all(number >= 1 and reason for number, reason in refused.value.problems)


def test_the_lines_of_the_guide_are_valid() -> None:
    guide = (Path(__file__).parents[4] / "docs" / "guides" / "data.md").read_text()
    lines = [line.encode() for line in guide.splitlines() if line.startswith('{"')]
    kinds = [is_preference(json.loads(line)) for line in lines]
    assert kinds == [False, False, True]
    for line, preference in zip(lines, kinds, strict=True):
        assert (parse_preference(line) if preference else parse_conversation(line)).ignored_keys == frozenset()
