from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AliasConflict
from loramux_adapters.models import parse_adapter_name
from loramux_adapters.registry.model_aliases import ModelAliasRegistry
from loramux_adapters.registry.registry import Registry
from tests.helpers.postgresql import migrated_postgresql
from tests.helpers.registry_records import at

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    with migrated_postgresql() as engine:
        yield engine


def test_an_alias_waits_for_an_adapter_of_its_name_that_is_being_added(engine: sa.Engine) -> None:
    name = parse_adapter_name("tone")
    with ThreadPoolExecutor(1) as threads:
        with Registry(engine)._transaction(name, at(1.0), create_in="default"):
            setting = threads.submit(ModelAliasRegistry(engine).set, name, "base", at(1.0))
            assert not wait([setting], timeout=0.5).done
        with pytest.raises(AliasConflict, match="name of an adapter"):
            setting.result()
