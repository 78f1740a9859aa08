"""The number of answers that one request asks for."""

from typing import Any

import pytest

from loramux_server.errors import InvalidRequest
from loramux_server.middleware.request_size import check_sequences


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 8},
        {"prompt": ["a"] * 8},
        {"prompt": ["a"] * 4, "n": 2},
        {"prompt": list(range(100))},
        {"prompt": [], "n": None},
        {"prompt": "a" * 100, "n": -5},
        {"prompt": {"a": 1}, "n": 2},
    ],
    ids=repr,
)
def test_as_many_answers_as_allowed_pass_and_other_types_are_left_to_the_handler(body: dict[str, Any]) -> None:
    check_sequences(body, 8)


@pytest.mark.parametrize("number", ["2", "300", 2.0, [2], "x"])
def test_what_the_handler_might_take_for_a_number_of_answers_is_refused(number: object) -> None:
    with pytest.raises(InvalidRequest, match="expected a whole number") as refused:
        check_sequences({"n": number}, 8)
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 9}, "n"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": [[1, 2]] * 5, "n": 2}, "prompt"),
        ({"n": 2**62}, "n"),
    ],
    ids=repr,
)
def test_more_answers_are_refused_with_the_field_and_the_setting(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=r"requests\.max_sequences") as refused:
        check_sequences(body, 8)
    assert refused.value.param == param
