"""Priority classes by the fields of a request's body."""

import pytest

from loramux_server.fairness.priority import Priority, from_body


@pytest.mark.parametrize(
    ("body", "priority"),
    [
        ({}, Priority.DEFAULT),
        ({"service_tier": "auto"}, Priority.DEFAULT),
        ({"service_tier": "default"}, Priority.DEFAULT),
        ({"service_tier": "priority"}, Priority.INTERACTIVE),
        ({"service_tier": "flex"}, Priority.BATCH),
        ({"priority": -1}, Priority.INTERACTIVE),
        ({"priority": 10**30}, Priority.BATCH),
        ({"priority": 0, "service_tier": "flex"}, Priority.BATCH),
        ({"priority": "high", "service_tier": ["flex"]}, Priority.DEFAULT),
        ({"priority": None, "service_tier": None}, Priority.DEFAULT),
    ],
)
def test_the_class_is_that_of_the_number_or_else_of_the_tier(body: dict[str, object], priority: Priority) -> None:
    assert from_body(body) is priority
