"""Rows and scenarios for tests."""

from dataclasses import replace
from typing import Any

from loramux_loadtests.loadtest.rows import RequestRow
from loramux_loadtests.loadtest.scenario import Scenario

ROW = RequestRow(
    number=0,
    phase="load",
    route="base",
    model="tiny",
    scheduled=1.0,
    sent=1.5,
    first=2.0,
    last=4.0,
    input_tokens=10,
    cached_tokens=4,
    output_tokens=5,
    wanted_tokens=5,
    cold=False,
    status=200,
    error=None,
    reason=None,
    request_id="r",
)


def row(**changes: Any) -> RequestRow:
    return replace(ROW, **changes)


def failed(error: str = "http 500", **changes: Any) -> RequestRow:
    return row(error=error, reason=error, first=None, output_tokens=0, **changes)


def scenario(**changes: Any) -> Scenario:
    plain = {
        "title": "Trial",
        "arrivals": {"process": "poisson", "rate": 100.0},
        "mix": {"names": ["base"]},
        "output": {"tokens": 3},
        "requests": 20,
        "warm_up": {"requests": 0},
    }
    return Scenario.model_validate(plain | changes)
