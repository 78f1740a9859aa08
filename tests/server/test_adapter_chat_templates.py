"""An adapter with a chat template of its own on a server: all endpoints count as a server with that template does."""

from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import VersionId, parse_adapter_name
from loramux_server.base_model import ResolvedBase
from tests.helpers.adapter_files import lora_tensors, write_adapter
from tests.helpers.experiment_traffic import chat, start, user_of
from tests.helpers.tiny_server import TEMPLATE, TinyServer, small_arguments, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

OWN = (
    "{% if messages[0].role != 'system' %}### You are Ada.\n{% endif %}"
    "{% for message in messages %}### {{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if tools %}{{ tools | length }} tools\n{% endif %}{% if add_generation_prompt %}### Ada: {% endif %}"
)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "héllo"}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER], "max_tokens": 3, "tools": [TOOL], "tool_choice": "none"},
    "/v1/responses": {"input": "héllo", "instructions": "Be brief.", "max_output_tokens": 3, "store": False},
    "/v1/messages": {"messages": [USER], "max_tokens": 3, "system": "Be brief."},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/tokenize": {"messages": [USER]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ours(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("ours"), tiny_base) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_template(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server whose base has OWN as its chat template."""
    arguments = Namespace(**vars(small_arguments(tiny_base)) | {"chat_template": OWN})
    async with tiny_server(tmp_path_factory.mktemp("stock"), tiny_base, arguments=arguments) as server:
        yield server


async def add(tiny: TinyServer, name: str, template: str | None, seed: int = 0) -> VersionId:
    """Register an adapter with a chat template next to its weights."""
    folder = write_adapter(tiny.settings.allowed_roots[0] / f"{name}-{seed}", None, lora_tensors(seed=seed))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    source = FolderSource(folder, tiny.settings.allowed_roots)
    return (await tiny.server.adapter_service.add(parse_adapter_name(name), source, actor="test")).id


async def prompt_tokens(tiny: TinyServer, path: str, model: str, changes: dict[str, Any] | None = None) -> int:
    response = await tiny.http.post(path, json={"model": model} | REQUESTS[path] | (changes or {}))
    assert response.status_code == 200, response.text
    body = response.json()
    counts = body.get("usage", body)
    found = [counts[key] for key in ("prompt_tokens", "input_tokens", "count") if key in counts]
    return int(found[0])


@pytest.mark.parametrize("path", REQUESTS)
async def test_every_endpoint_counts_as_a_server_with_this_template(
    ours: TinyServer, with_template: TinyServer, path: str
) -> None:
    """A10."""
    await add(ours, "own", OWN)
    await add(ours, "plain", None, seed=1)
    base = ours.server.base_name
    assert await prompt_tokens(ours, path, "own") == await prompt_tokens(with_template, path, base)
    assert await prompt_tokens(ours, path, "plain") == await prompt_tokens(ours, path, base)
    assert await prompt_tokens(ours, path, base) != await prompt_tokens(with_template, path, base)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_late_system_messages_are_where_the_adapters_template_allows_them(
    ours: TinyServer, with_template: TinyServer, tiny_base: ResolvedBase, tmp_path: Path, path: str
) -> None:
    """A10: vLLM asks the base's template, once, whether it refuses them."""
    refusal = "{% if message.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
    refusing = OWN.replace("{% for message in messages %}", "{% for message in messages %}" + refusal)
    late = {"messages": [USER, {"role": "system", "content": "Be brief."}, USER]}
    arguments = Namespace(**vars(small_arguments(tiny_base)) | {"chat_template": refusing})
    await add(ours, "refusing-late", refusing, seed=6)
    async with tiny_server(tmp_path, tiny_base, arguments=arguments) as stock:
        await add(stock, "own", OWN)
        base = stock.server.base_name
        assert await prompt_tokens(ours, path, "refusing-late", late) == await prompt_tokens(stock, path, base, late)
        assert await prompt_tokens(stock, path, "own", late) == await prompt_tokens(with_template, path, base, late)


async def test_the_manifest_says_that_a_template_is_used(ours: TinyServer) -> None:
    """A10."""
    await add(ours, "noted", OWN)
    await add(ours, "same", TEMPLATE, seed=2)
    noted = (await ours.http.get("/admin/adapters/noted")).json()["versions"][0]
    same = (await ours.http.get("/admin/adapters/same")).json()["versions"][0]
    assert any("its own chat template is used" in warning for warning in noted["warnings"])
    assert same["warnings"] == []


async def test_in_a_split_the_version_that_is_picked_decides(ours: TinyServer) -> None:
    """A10: a canary with another template is rendered by its own one, for exactly its share of the users."""
    old = await add(ours, "split", None, seed=3)
    new = await add(ours, "split", OWN, seed=4)
    service, name = ours.server.adapter_service, parse_adapter_name("split")
    await service.set_alias(name, {old.digest: 0.5, new.digest: 0.5}, actor="test")
    expected = {str(v): await prompt_tokens(ours, "/tokenize", str(v)) for v in (old, new)}
    seen = set()
    for user in range(20):
        answer = await ours.chat("split", content=USER["content"], user=f"user-{user}")
        version = str(answer.choices[0].message.content).partition("]")[0].removeprefix("[")
        assert answer.usage.prompt_tokens == expected[version]
        seen.add(version)
    assert seen == {str(old), str(new)}


async def test_a_template_that_refuses_a_conversation_is_a_400_with_its_reason(ours: TinyServer) -> None:
    refusing = OWN + "{% if messages | length > 1 %}{{ raise_exception('one message only') }}{% endif %}"
    await add(ours, "refusing", refusing)
    body = {"model": "refusing", "messages": [USER, USER]}
    response = await ours.http.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "one message only")


async def test_with_the_setting_ignore_stored_templates_are_not_used(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base) as using:
        version = str(await add(using, "own", OWN))
        with_own = await prompt_tokens(using, "/tokenize", version)
    async with tiny_server(tmp_path, tiny_base, adapter_chat_template="ignore") as ignoring:
        as_base = await prompt_tokens(ignoring, "/tokenize", ignoring.server.base_name)
        assert await prompt_tokens(ignoring, "/tokenize", version) == as_base != with_own


async def test_in_an_experiment_the_variant_that_answers_decides(ours: TinyServer) -> None:
    """A10."""
    await add(ours, "tone", OWN, seed=5)
    routes = {"adapter": "tone", "baseline": ours.server.base_name}
    expected = {variant: await prompt_tokens(ours, "/tokenize", model) for variant, model in routes.items()}
    experiment = await start(ours)
    try:
        for variant, tokens in expected.items():
            _, answer = await chat(ours, user_of(experiment, variant), messages=[USER])
            assert answer.usage.prompt_tokens == tokens
    finally:
        await ours.server.experimentation.service.stop(experiment["id"], actor="test")
    assert len(set(expected.values())) == 2
