import pytest
from tests.server.tiny import write_base

from loramux_server.base import ResolvedBase


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")
