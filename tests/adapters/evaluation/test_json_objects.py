import pytest

from loramux_adapters.evaluation.json_objects import parse_json_object


def test_an_object_is_read_from_text_and_from_bytes() -> None:
    assert parse_json_object(' {"a": [1]}\n') == parse_json_object(b'{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize("text", ["", "[1]", "null", "7", "{", 'Sure: {"a": 1}', "[" * 100_000, b"\xff\xfe", b"{\xff}"])
def test_anything_else_is_none(text: str | bytes) -> None:
    assert parse_json_object(text) is None
