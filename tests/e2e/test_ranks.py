"""An adapter whose rank is above the limit at start is added to a running server, and answers."""

import pytest

from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import parse_adapter_name
from tests.conftest import RealServer
from tests.helpers.engine_bench import EngineBench

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


async def ask(real: RealServer, model: str) -> str | None:
    turns = [{"role": "user", "content": "Hello"}]
    answer = await real.client.chat.completions.create(model=model, messages=turns, max_tokens=8, temperature=0)  # type: ignore[arg-type]
    return answer.choices[0].message.content


async def test_an_adapter_with_a_higher_rank_is_added_and_served_next_to_the_others(real: RealServer) -> None:
    """A5: the limit of the shared server is 16."""
    before = [await ask(real, model) for model in (real.base.name, "house-tone")]
    version = EngineBench(real, real.folder).version("rank-64", seed=7, rank=64)
    source = FolderSource(real.folder / version.name, [real.folder])
    added = await real.server.adapter_service.add(parse_adapter_name("rank-64"), source, actor="test")
    assert added.manifest.rank == 64
    assert await ask(real, "rank-64") not in before
    assert [await ask(real, model) for model in (real.base.name, "house-tone")] == before
    assert (await real.http.delete("/admin/adapters/rank-64")).status_code == 200
