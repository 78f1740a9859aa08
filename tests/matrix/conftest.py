"""Collects the results of the matrix, and writes them where `make matrix` asked for it."""

import os
from collections.abc import Iterator

import pytest

from tests.matrix.results import Results

RECORD = "RECORD_MATRIX"


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """Collect results, and write them at the end of a whole run without failures."""
    collected = Results()
    yield collected
    is_whole = not request.config.getoption("keyword") and collected.rows and collected.shapes
    if os.environ.get(RECORD) and is_whole and not request.session.testsfailed:
        collected.write()
