"""Collects the results of the matrix."""

from collections.abc import Iterator

import pytest

from tests.matrix.results import Results


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """Collect results, and write them at the end if `make matrix` asked for it."""
    collected = Results()
    yield collected
    collected.write()
