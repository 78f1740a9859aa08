import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.trace import TraceRequest, at_rate, read_trace


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "5,tone,100,20\n5.5,base\n7\n"),
        ("t.csv", "\ufeffseconds, route, input_tokens, output_tokens\r\n5,tone,100,20\r\n\r\n5.5,base,,\r\n7,,,\r\n"),
        ("t.csv", "route,seconds,output_tokens,input_tokens\ntone,5,20,100\nbase,5.5\n,7\n"),
        (
            "t.jsonl",
            '{"seconds": 5, "route": "tone", "input_tokens": 100, "output_tokens": 20}\n\n'
            '{"seconds": 5.5, "route": "base"}\n{"seconds": 7}',
        ),
    ],
)  # fmt: skip
def test_a_trace_is_read_from_csv_and_jsonl_and_starts_at_its_first_request(
    tmp_path: Path, name: str, content: str
) -> None:
    recorded = read_trace(written(tmp_path, name, content))
    assert recorded == [TraceRequest(0.0, "tone", 100, 20), TraceRequest(0.5, "base"), TraceRequest(2.0)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "1,a\n2,a\nx,a\n", "line 3: seconds: .*number"),
        ("t.csv", "1\n2\n1.5\n", "line 3: 1.5 s follows 2 s"),
        ("t.csv", "1,a,3,4,5\n", "line 1: 5 cells, but 4 columns"),
        ("t.csv", "1,a,-3\n", "line 1: input_tokens"),
        ("t.csv", "1,a,3,0\n", "line 1: output_tokens"),
        ("t.csv", "seconds,when\n1,2\n", "line 2: when"),
        ("t.csv", '1,"a\n', "line 1: this is not CSV"),
        ("t.csv", "nan\n", "line 1: seconds"),
        ("t.csv", "1e999\n", "line 1: seconds"),
        ("t.csv", b"1,a\n2,\xff\n", "line 2: this is not UTF-8"),
        ("t.csv", "", "contains no request"),
        ("t.csv", "seconds,route\n", "contains no request"),
        ("t.jsonl", '{"seconds": 1}\n{"seconds": 2', "line 2: this is not JSON"),
        ("t.jsonl", "[1]\n", "line 1: this is not a JSON object"),
        ("t.jsonl", '{"route": "a"}\n', "line 1: seconds: Field required"),
        ("t.jsonl", '{"seconds": 1, "rout": "a"}\n', "line 1: rout"),
        ("t.jsonl", "[" * 100_000, "line 1: this is not JSON"),
    ],
)  # fmt: skip
def test_a_broken_trace_is_refused_with_the_line(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    with pytest.raises(LoadTestError, match=reason):
        read_trace(written(tmp_path, name, content))


@pytest.mark.parametrize("name", ["missing.csv", "", "nul\0.csv"])
def test_a_trace_that_can_not_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadTestError, match="can't be read"):
        read_trace(tmp_path / name)


@given(content=st.binary(max_size=200), name=st.sampled_from(["t.csv", "t.jsonl"]))
def test_any_file_is_a_trace_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = written(tmp_path_factory.getbasetemp(), name, content)
    try:
        recorded = read_trace(path)
    except LoadTestError:
        return
    assert recorded[0].at == 0.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20).map(sorted))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, times: list[float]) -> None:
    lines = "\n".join(json.dumps({"seconds": at}) for at in times)
    recorded = read_trace(written(tmp_path_factory.getbasetemp(), "w.jsonl", lines))
    assert [line.at for line in recorded] == [at - times[0] for at in times]


def test_a_trace_can_be_played_at_another_rate() -> None:
    faster = at_rate([TraceRequest(0.0, "a"), TraceRequest(1.0), TraceRequest(4.0)], rate=2.0)
    assert faster == [TraceRequest(0.0, "a"), TraceRequest(0.25), TraceRequest(1.0)]
    with pytest.raises(LoadTestError, match="have the same time"):
        at_rate([TraceRequest(0.0), TraceRequest(0.0)], rate=2.0)
