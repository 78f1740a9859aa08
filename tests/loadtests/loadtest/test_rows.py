import json
from dataclasses import replace
from pathlib import Path

import pytest

from loramux_loadtests.client import ChatReply
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.rows import RowWriter, make_row, read_rows
from tests.helpers.load_rows import failed, row

REPLY = ChatReply(True, 200, "x", 10, 4, 5, 101.0, 101.5, 102.0, 104.0, (), None, "tiny", "r")


def test_times_count_from_the_sent_and_from_the_scheduled_time() -> None:
    one = row(scheduled=1.0, sent=1.5, first=2.0, last=4.0, output_tokens=5)
    assert (one.lag, one.seconds("ttft"), one.seconds("ttft_scheduled")) == (0.5, 0.5, 1.0)
    assert (one.seconds("tpot"), one.seconds("latency"), one.seconds("latency_scheduled")) == (0.5, 2.5, 3.0)


def test_a_request_without_a_first_token_has_no_time_to_it() -> None:
    assert [row(first=None).seconds(measure) for measure in ("ttft", "ttft_scheduled", "tpot")] == [None] * 3
    assert row(output_tokens=1).seconds("tpot") is None


def test_a_row_has_the_times_of_a_reply_in_seconds_of_the_load() -> None:
    assert make_row(REPLY, 100.0, number=0, phase="load", route="base", wanted_tokens=5, cold=False) == row()


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (0, "ClientConnectorError: refused", "no connection"),
        (0, "no answer in time", "timeout"),
        (200, "no answer in time: read", "timeout"),
        (200, "the stream ended before its [DONE]", "broken stream"),
        (503, "503 server_overloaded", "http 503"),
    ],
)
def test_errors_have_kinds(status: int, error: str, kind: str) -> None:
    reply = replace(REPLY, ok=False, status=status, error=error)
    made = make_row(reply, 0.0, number=0, phase="load", route="base", wanted_tokens=5, cold=False)
    assert (made.error, made.reason) == (kind, error)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [row(), failed(number=1), row(number=2, phase="warm-up", cold=True)]
    with RowWriter(tmp_path / "new" / "rows.jsonl") as file:
        file.write_about({"seed": 3})
        for each in rows:
            file.append(each)
        file.write_about({"end": None})
        assert read_rows(tmp_path / "new" / "rows.jsonl") == (
            {"seed": 3, "end": None},
            rows,
        )  # on disk before it is closed
    first = json.loads((tmp_path / "new" / "rows.jsonl").read_text().splitlines()[1])
    assert first["ttft"] == 0.5


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path) as file:
        file.append(row())
        file.append(row(number=1))
    path.write_text(path.read_text()[:-20])
    assert read_rows(path)[1] == [row()]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "1e300", "1" + "0" * 400, '"x"', "[]"])
@pytest.mark.parametrize("name", ["first", "output_tokens"])
def test_a_value_that_is_not_a_number_is_refused_with_its_line(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path) as file:
        file.append(row())
    line = json.dumps({**json.loads(path.read_text()), name: "here"}).replace('"here"', value)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(LoadTestError, match=f"line 2: this is not a row of a load test .{name}"):
        read_rows(path)


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"number": "x"}'])
def test_a_broken_line_in_the_middle_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path) as file:
        file.append(row())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(LoadTestError, match="line 2"):
        read_rows(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(LoadTestError, match="contains no row"):
        read_rows(tmp_path / "rows.jsonl")
