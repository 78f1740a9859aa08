from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_loadtests.compare.answer_log import AnswerLog, Batch, fingerprint
from loramux_loadtests.compare.errors import ComparisonError
from tests.helpers.comparisons import TUNED, measured_answer


def test_answers_and_batches_are_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    with AnswerLog(path, "a") as journal:
        journal.add(measured_answer(TUNED, 0, text="ünï\u2028code\n"))
        journal.add_batch("warm", TUNED, Batch(1.5, 8))
    with AnswerLog(path, "a") as again:
        again.add(measured_answer(TUNED, 1))
        again.add_batch("warm", TUNED, Batch(2.0, 4))
        again.add_batch("cold", TUNED, Batch(1.0, 8))
    with AnswerLog(path, "a") as last:
        assert [found.item for found in last.answers] == [0, 1]
        assert last.answers[0].text == "ünï\u2028code\n"
        assert last.batches == {("warm", TUNED): [(1.5, 8), (2.0, 4)], ("cold", TUNED): [(1.0, 8)]}


def test_a_comparison_has_the_same_fingerprint_in_every_process() -> None:
    labels = [f"label{number}" for number in range(50)]
    assert fingerprint({"labels": frozenset(labels)}) == fingerprint({"labels": sorted(labels)})


@given(cut=st.integers(1, 400))
def test_a_kill_within_a_line_loses_only_that_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with AnswerLog(path, "a") as journal:
        for item in range(3):
            journal.add(measured_answer(TUNED, item))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with AnswerLog(path, "a") as again:
        kept = len(again.answers)
        for item in range(kept, 3):
            again.add(measured_answer(TUNED, item))
    assert kept == whole[:-cut].count(b"\n") - 1
    assert path.read_bytes() == whole


def test_the_answers_of_another_comparison_are_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with AnswerLog(path, "a") as journal:
        journal.add(measured_answer(TUNED, 0))
    before = path.read_bytes()
    with pytest.raises(ComparisonError, match=r"another comparison .* --output"), AnswerLog(path, "b"):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"\x00\xff\n", b"[]\n", b"{}\n", b'{"comparison": "a"}\n{"arm": 1}\n', b"1\n"])
def test_another_file_is_refused_and_not_changed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ComparisonError, match="remove it"), AnswerLog(path, "a"):
        pass
    assert path.read_bytes() == content


def test_a_path_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ComparisonError, match="can't be written"), AnswerLog(tmp_path / "file" / "rows.jsonl", "a"):
        pass


def test_a_fingerprint_depends_on_every_key_and_value() -> None:
    names = {fingerprint({"a": 1}), fingerprint({"a": 2}), fingerprint({"b": 1}), fingerprint({"a": [1]})}
    assert len(names) == 4


def test_scores_are_loaded_for_the_scorer_that_gave_them(tmp_path: Path) -> None:
    path, key = tmp_path / "rows.jsonl", ("warm", TUNED, 0)
    given = {"a": {"exact": 1.0}, "b": {"chrF": 0.5}}
    for scorer, scores in given.items():
        with AnswerLog(path, "x", scorer) as journal:
            assert journal.scores == {}
            journal.add_scores(key, scores)
    for scorer in "abc":
        with AnswerLog(path, "x", scorer) as journal:
            assert journal.scores.get(key) == given.get(scorer)
