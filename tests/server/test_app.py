"""The whole server over HTTP: vLLM's handlers on the fake engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import AdapterName
from loramux_server import configured_folders
from loramux_server.adapter_lifecycle import maintenance, quarantine_unserved
from loramux_server.base_model import ResolvedBase
from loramux_server.configured_adapters import add_configured, engine_options, is_rank_automatic, required_rank
from loramux_server.settings import Settings
from tests.helpers.adapter_files import BASE, lora_config, lora_tensors, write_adapter
from tests.helpers.registry_records import fill
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path: Path) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that leave it as it was, except for adapters with names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


async def metric(tiny: TinyServer, line: str) -> float:
    """Return the value of the metric with name and labels `line`, or 0."""
    page = (await tiny.http.get("/metrics")).text
    values = [row.rpartition(" ")[2] for row in page.splitlines() if row.rpartition(" ")[0] == line]
    return float(values[0]) if values else 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition is true."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_base_and_an_adapter_each_run_on_their_route(shared: TinyServer) -> None:
    version = await shared.add("routed")
    base, adapter = await shared.chat("tiny"), await shared.chat("routed", max_tokens=40)
    assert base.choices[0].message.content.startswith("[base] 0")
    assert adapter.choices[0].message.content.startswith(f"[{version}] 0")
    assert (base.model, adapter.model) == ("tiny", version)


@pytest.mark.slow
async def test_a_pinned_adapter_has_its_own_histograms(tiny: TinyServer) -> None:
    name = AdapterName("support-tone")
    await tiny.add(name)
    own = 'loramux_request_duration_seconds_count{adapter="support-tone",route="adapter"}'
    for pinned, count in ((False, 0), (True, 1), (False, 1)):
        await tiny.server.adapter_service.pin(name, pinned=pinned, actor="test")
        await tiny.chat(name)
        assert await metric(tiny, own) == count
    assert await metric(tiny, 'loramux_request_duration_seconds_count{adapter="_other",route="adapter"}') == 2


async def test_metrics_report_the_engines_state_and_quarantines(
    tiny: TinyServer,
) -> None:
    version = await tiny.add("support-tone")
    assert [await metric(tiny, f"loramux_{name}") for name in ("engine_up", "adapter_quarantines_total")] == [1, 0]
    tiny.engine.corrupt.add(version)
    for _ in range(2):
        with pytest.raises(openai.APIStatusError):
            await tiny.chat("support-tone")
    assert await metric(tiny, "loramux_adapter_quarantines_total") == 1


async def test_a_version_is_requested_by_name_and_digest(shared: TinyServer) -> None:
    old = await shared.add("two-versions", seed=1)
    new = await shared.add("two-versions", seed=2)
    assert (await shared.chat("two-versions")).model == new
    assert (await shared.chat(old)).model == old


async def test_a_name_with_slashes_and_colons_is_served_and_retrieved(shared: TinyServer) -> None:
    version = await shared.add("ft:tiny/org:tone:1")
    assert (await shared.chat("ft:tiny/org:tone:1")).model == version
    assert (await shared.client.models.retrieve("ft:tiny/org:tone:1")).id == "ft:tiny/org:tone:1"


async def test_models_lists_the_base_and_its_adapters_without_paths(tiny: TinyServer) -> None:
    await tiny.add("b")
    await tiny.add("a", seed=1)
    listed = (await tiny.http.get("/v1/models")).json()["data"]
    assert [(model["id"], model["parent"]) for model in listed] == [("tiny", None), ("a", "tiny"), ("b", "tiny")]
    assert str(tiny.settings.data_dir) not in json.dumps(listed)


async def test_an_unknown_model_is_a_404_in_openais_format(shared: TinyServer) -> None:
    for ask in (
        shared.chat("nobody"),
        shared.chat("nobody@0123456789ab"),
        shared.chat("../../etc"),
        shared.chat("tiny@x"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await ask
        assert caught.value.code == "model_not_found"
        assert caught.value.request_id


async def test_a_removed_adapter_is_a_404_and_its_name_can_be_reused(shared: TinyServer) -> None:
    version = await shared.add("removed")
    await shared.chat("removed")
    assert (await shared.http.delete("/admin/adapters/removed")).json()["versions"][0]["id"] == version
    with pytest.raises(openai.NotFoundError):
        await shared.chat("removed")
    with pytest.raises(openai.NotFoundError):
        await shared.chat(version)
    assert version not in shared.engine.loaded.values()
    assert await shared.add("removed") == version
    assert (await shared.chat("removed")).model == version


@pytest.mark.slow
async def test_more_adapters_than_the_engine_holds_are_all_served(shared: TinyServer) -> None:
    names = [f"crowd-{number}" for number in range(8)]
    versions = [await shared.add(name, seed=number) for number, name in enumerate(names)]
    answers = await asyncio.gather(*(shared.chat(name, max_tokens=40) for name in names * 4))
    assert [answer.model for answer in answers] == versions * 4
    assert all(answer.choices[0].message.content.startswith(f"[{answer.model}]") for answer in answers)
    assert len(shared.engine.loaded) <= 2


async def test_an_adapter_is_loaded_once_for_many_requests(shared: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    version = await shared.add("loaded-once")
    await shared.evict()
    monkeypatch.setattr(shared.engine, "loads", [])
    monkeypatch.setattr(shared.engine, "seconds_per_load", 0.05)
    await asyncio.gather(*(shared.chat("loaded-once") for _ in range(20)))
    await shared.chat("loaded-once")
    assert shared.engine.loads == [version]


async def test_an_adapter_that_fails_to_load_fails_only_its_requests(shared: TinyServer) -> None:
    shared.engine.refused_loads.add(await shared.add("bad"))
    await shared.evict()
    with pytest.raises(openai.InternalServerError) as caught:
        await shared.chat("bad")
    assert caught.value.code == "adapter_loading_failed"
    assert "refused" not in str(caught.value)
    assert (await shared.chat("tiny")).model == "tiny"


async def test_a_stream_that_fails_before_its_first_token_has_a_real_status(shared: TinyServer) -> None:
    shared.engine.refused_loads.add(await shared.add("bad-stream"))
    await shared.evict()
    with pytest.raises(openai.InternalServerError) as caught:
        await shared.chat("bad-stream", stream=True)
    assert caught.value.code == "adapter_loading_failed"


async def test_requests_wait_for_memory_and_get_503_beyond_the_queue(
    tmp_path: Path, tiny_base: ResolvedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fair admission would let the third version wait before it asks for memory.
    async with tiny_server(tmp_path, tiny_base, fairness={"enabled": False}) as tiny:
        for number in range(4):
            await tiny.add(f"queued-{number}", seed=number)
        monkeypatch.setattr(tiny.server.adapter_service.pool, "max_waiting", 1)
        monkeypatch.setattr(tiny.engine, "seconds_per_token", 0.02)
        running = [asyncio.create_task(tiny.chat(f"queued-{number}")) for number in range(3)]
        await until(lambda: len(tiny.server.adapter_service.pool._queue) == 1)
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                await tiny.chat("queued-3", stream=stream)
            assert caught.value.status_code == 503
            assert caught.value.code == "server_overloaded"
            assert int(caught.value.response.headers["retry-after"]) >= 1
        await asyncio.gather(*running)


async def test_every_request_is_counted_once_whatever_its_outcome(tiny: TinyServer) -> None:
    await tiny.add("a")
    await tiny.evict()
    await tiny.chat("a")
    [chunk async for chunk in await tiny.chat("a", stream=True)]
    await tiny.chat("a", n=2)
    requests = 'loramux_requests_total{{adapter="a",operation="chat",outcome="{}",route="adapter"}}'
    assert await metric(tiny, requests.format("ok")) == 3
    assert await metric(tiny, 'loramux_tokens_total{adapter="a",route="adapter",type="output"}') == 80
    assert await metric(tiny, "loramux_adapter_cold_requests_total") == 1
    assert await metric(tiny, 'loramux_adapters_resident{tier="host"}') == 1

    tiny.engine.seconds_per_token = 0.02
    stream = await tiny.chat("a", stream=True, max_tokens=200)
    async for _ in stream:
        break
    await stream.close()
    with pytest.raises(httpx.ReadTimeout):
        body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "max_tokens": 200}
        await tiny.http.post("/v1/chat/completions", json=body, timeout=0.3)
    await until(lambda: not tiny.engine.running)
    await asyncio.sleep(0.1)
    assert await metric(tiny, requests.format("cancelled")) == 2
    assert await metric(tiny, 'loramux_requests_in_flight{route="adapter"}') == 0
    assert all(not place.leases for place in tiny.server.adapter_service.pool._residents.values())


async def test_a_list_of_prompts_is_one_request_with_the_tokens_of_all(tiny: TinyServer) -> None:
    await tiny.client.completions.create(model="tiny", prompt=["a", "b", "c"], max_tokens=5)
    requests = 'loramux_requests_total{adapter="",operation="completions",outcome="ok",route="base"}'
    assert await metric(tiny, requests) == 1
    assert await metric(tiny, 'loramux_tokens_total{adapter="",route="base",type="output"}') == 15


async def test_vllms_other_routes_are_not_served(shared: TinyServer) -> None:
    for path in ("/invocations", "/scale_elastic_ep", "/v1/load_lora_adapter", "/inference/v1/generate", "/version",
                 "/v1/chat/completions/batch", "/server_info", "/sleep", "/docs"):  # fmt: skip
        for method in ("GET", "POST"):
            answer = await shared.http.request(method, path, json={})
            assert answer.status_code == 404, path
            assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "body"),
        (b'{"model": "tiny"}', "messages"),
        (b'{"model": "tiny", "messages": "hello"}', "messages"),
        (b'{"model": "tiny", "messages": [], "max_tokens": "many"}', "max_tokens"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": -1}', "n"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "structured_outputs": 5}', "wrong type"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "structured_outputs": []}', "wrong type"),
        (b"\xff\xfe", "body"),
    ],
)  # fmt: skip
async def test_an_invalid_body_is_a_400_with_the_field(shared: TinyServer, body: bytes, field: str) -> None:
    answer = await shared.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert field in error["message"], error


@pytest.mark.parametrize("count", [21, 2**40, 2**62])
async def test_more_log_probabilities_than_the_engine_gives_are_a_400(shared: TinyServer, count: int) -> None:
    with pytest.raises(openai.BadRequestError, match="log-probabilities"):
        await shared.client.completions.create(model="tiny", prompt="hi", max_tokens=2, logprobs=count)


async def test_empty_messages_are_a_400(shared: TinyServer) -> None:
    with pytest.raises(openai.BadRequestError):
        await shared.client.chat.completions.create(model="tiny", messages=[])


async def test_a_too_long_prompt_is_reported_as_such(shared: TinyServer) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await shared.chat("tiny", "x" * 1000, stream=stream)
        assert caught.value.code == "context_length_exceeded"


async def test_a_body_of_50_mb_is_refused(shared: TinyServer) -> None:
    answer = await shared.http.post("/v1/chat/completions", content=b"x" * 50_000_000)
    assert answer.status_code == 413


async def test_draining_refuses_new_requests_and_finishes_running_ones(tiny: TinyServer) -> None:
    tiny.engine.seconds_per_token = 0.05
    stream = await tiny.chat("tiny", stream=True)
    tiny.server.readiness.drain.start()
    assert (await tiny.http.get("/health")).status_code == 200
    assert (await tiny.http.get("/ready")).status_code == 503
    with pytest.raises(openai.InternalServerError) as caught:
        await tiny.chat("tiny")
    assert caught.value.status_code == 503
    assert "retry-after" in caught.value.response.headers
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_when_the_engine_dies_open_requests_get_an_error_and_the_exit_code_is_not_0(tiny: TinyServer) -> None:
    tiny.engine.seconds_per_token = 0.02
    stream = await tiny.chat("tiny", stream=True, max_tokens=200)
    plain = asyncio.create_task(tiny.chat("tiny", max_tokens=200))
    await asyncio.sleep(0.1)
    tiny.engine.die()
    with pytest.raises(openai.APIError) as in_stream:
        [chunk async for chunk in stream]
    assert in_stream.value.code == "engine_dead"
    with pytest.raises(openai.InternalServerError) as caught:
        await plain
    assert (caught.value.status_code, caught.value.code) == (503, "engine_dead")
    assert caught.value.response.headers["retry-after"] == "10"
    assert await asyncio.wait_for(tiny.life, 10) != 0


async def test_with_a_key_nothing_but_health_is_open(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base, keys=("secret-1", "secret-2")) as tiny:
        assert (await tiny.chat("tiny")).model == "tiny"
        for path in ("/v1/models", "/metrics", "/admin/adapters"):
            refused = await tiny.http.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert (await tiny.http.get(path, headers={"authorization": "Bearer secret-2"})).status_code == 200
        for path in ("/health", "/ready"):
            assert (await tiny.http.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("text", [r"\ud800", r"\u0000", "x" * 100_000])
async def test_unusual_text_is_never_an_internal_error(shared: TinyServer, path: str, text: str) -> None:
    messages = '[{"role": "user", "content": "%s"}]' % text  # noqa: UP031 - braces everywhere
    body = f'{{"model": "tiny", "max_tokens": 4, "messages": {messages}, "prompt": "{text}", "input": "{text}"}}'
    answer = await shared.http.post(path, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400), answer.text


def configured(tiny: TinyServer, **folders: Path) -> Settings:
    """Return settings with adapters to register at start."""
    return tiny.settings.model_copy(update={"adapters": folders})


def folder_of(tiny: TinyServer, name: str, seed: int, **config: Any) -> Path:
    rank = config.get("r", 4)
    tensors = lora_tensors(seed=seed, rank=rank)
    return write_adapter(tiny.settings.allowed_roots[0] / name, lora_config(**config), tensors)


async def test_configured_adapters_are_served_and_invalid_ones_are_reported_and_skipped(tiny: TinyServer) -> None:
    reported: list[str] = []
    good = folder_of(tiny, "good", 1)
    broken = folder_of(tiny, "broken", 2, use_dora=True)
    settings = configured(tiny, good=good, broken=broken, missing=good.parent / "missing", **{"a b": good})
    await add_configured(tiny.server.adapter_service, settings, reported.append)
    assert (await tiny.chat("good")).model.startswith("good@")
    assert [model.name for model in tiny.server.adapter_service.resolver.adapters()] == ["good"]
    assert [line.split("'")[1] for line in reported] == ["broken", "missing", "a b"]
    assert "DoRA" in reported[0]


async def test_the_configuration_does_not_undo_an_operators_changes(shared: TinyServer) -> None:
    reported: list[str] = []
    settings, service = configured(shared, operated=folder_of(shared, "operated", 1)), shared.server.adapter_service
    await add_configured(service, settings, reported.append)
    operators = await shared.add("operated", seed=7)
    await add_configured(service, settings, reported.append)
    assert (await shared.chat("operated")).model == operators
    folder_of(shared, "operated", 2)
    await add_configured(service, settings, reported.append)
    newest = service.get(AdapterName("operated")).versions[-1].id
    assert (await shared.chat("operated")).model == str(newest) != operators
    service.quarantine(newest, "it computed NaN or infinite values")
    await add_configured(service, settings, reported.append)
    assert reported == ["the adapter 'operated' is quarantined: it computed NaN or infinite values"]


async def test_configured_adapters_that_have_not_changed_are_not_read_at_the_next_start(
    tiny: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: each start copied, hashed and validated all of them."""
    monkeypatch.setattr(configured_folders, "SETTLED_SECONDS", 0)
    folders, service = (
        {name: folder_of(tiny, name, seed) for seed, name in enumerate("abc")},
        tiny.server.adapter_service,
    )
    settings, fetched, fetch = configured(tiny, **folders), [], FolderSource.fetch

    def count(source: FolderSource, *arguments: Any) -> None:
        fetched.append(source.path.name)
        fetch(source, *arguments)

    monkeypatch.setattr(FolderSource, "fetch", count)

    async def start(settings: Settings = settings) -> list[str]:
        """Return the folders that are read at a start."""
        fetched.clear()
        required_rank(service.resolver, settings)
        await add_configured(service, settings, print)
        return sorted(set(fetched))

    assert await start() == ["a", "b", "c"]
    assert await start() == []
    folder_of(tiny, "b", 7)
    assert await start() == ["b"]
    await service.remove(AdapterName("c"), actor="test")
    assert await start() == ["c"]
    assert await start() == []
    elsewhere = settings.model_copy(update={"allowed_roots": (*settings.allowed_roots, tiny.settings.data_dir)})
    assert await start(elsewhere) == ["a", "b", "c"]
    assert [record.name for record in service.resolver.adapters()] == ["a", "b", "c"]
    assert (await tiny.chat("c")).model.startswith("c@")


async def test_the_rank_limit_covers_registered_and_configured_adapters(shared: TinyServer) -> None:
    await shared.add("registered")
    resolver = shared.server.adapter_service.resolver

    def limit(settings: Settings) -> int:
        found: int = engine_options({}, required_rank(resolver, settings), settings)["max_lora_rank"]
        return found

    huge = folder_of(shared, "huge", 1, r=100)
    unreadable = folder_of(shared, "unreadable", 1)
    (unreadable / "adapter_config.json").write_text("{")
    outside = write_adapter(shared.settings.data_dir / "outside", lora_config(r=512), lora_tensors(rank=512))
    assert limit(configured(shared)) == 16
    assert limit(configured(shared, unreadable=unreadable, outside=outside, missing=huge / "missing")) == 16
    assert limit(configured(shared, huge=huge)) == 128
    chosen = configured(shared, huge=huge).model_copy(update={"engine": {"max_lora_rank": 32}})
    assert limit(chosen) == 32
    automatic = configured(shared, huge=huge).model_copy(update={"engine": {"max_lora_rank": "auto"}})
    assert limit(automatic) == 128
    assert (is_rank_automatic(automatic), is_rank_automatic(chosen)) == (True, False)


@pytest.mark.parametrize(("engine", "limit"), [({}, 64), ({"max_lora_rank": "auto"}, 64), ({"max_lora_rank": 16}, 16)])
async def test_an_adapter_above_the_limit_raises_it_unless_it_was_set(
    tiny_base: ResolvedBase, tmp_path: Path, engine: dict[str, Any], limit: int
) -> None:
    """A5: vLLM's default limit is 16."""
    async with tiny_server(tmp_path, tiny_base, engine=engine) as tiny:
        folder = write_adapter(tmp_path / "adapters" / "large", lora_config(r=50), lora_tensors(rank=50))
        source = {"type": "folder", "path": str(folder)}
        response = await tiny.http.post("/admin/adapters", json={"name": "large", "source": source})
        assert response.status_code == (201 if limit > 50 else 400), response.text
        assert tiny.engine.vllm_config.lora_config.max_lora_rank == limit
        if limit < 50:
            assert "LORAMUX_ENGINE__MAX_LORA_RANK" in response.text


@pytest.mark.slow
async def test_use_counts_are_saved_and_the_most_used_are_loaded_at_the_next_start(
    tiny_base: ResolvedBase, tmp_path: Path
) -> None:
    async with tiny_server(tmp_path, tiny_base) as tiny:
        versions = [await tiny.add(f"a{number}", seed=number) for number in range(4)]
        async with maintenance(tiny.server.adapter_service):
            for name in ("a1", "a3", "a1", "a3", "a0"):
                await tiny.chat(name)
    async with tiny_server(tmp_path, tiny_base) as tiny:
        service = tiny.server.adapter_service
        assert [version.uses for record in service.resolver.adapters() for version in record.versions] == [1, 2, 0, 2]
        async with maintenance(service):
            await until(lambda: set(tiny.engine.loaded.values()) == {versions[1], versions[3]})


async def test_an_interrupted_effect_check_is_repeated_at_the_next_start(
    tiny_base: ResolvedBase, tmp_path: Path
) -> None:
    async with tiny_server(tmp_path, tiny_base) as tiny:
        tiny.engine.seconds_per_token = 10
        adding = asyncio.create_task(tiny.add("a"))
        async with maintenance(tiny.server.adapter_service):
            await until(lambda: tiny.engine.running > 0)
        with pytest.raises(asyncio.CancelledError):
            await adding
    async with tiny_server(tmp_path, tiny_base) as tiny:
        await tiny.server.adapter_service.resume_checks()
        assert (await tiny.chat("a")).model.startswith("a@")


@pytest.mark.slow
async def test_ten_thousand_adapters_are_listed_in_much_less_than_a_second(
    tiny_base: ResolvedBase, tmp_path: Path
) -> None:
    async with tiny_server(tmp_path, tiny_base) as tiny:
        service = tiny.server.adapter_service
        fill(service.registry, 10_000, service.ingest.base.spec)
    async with tiny_server(tmp_path, tiny_base) as tiny:
        started = time.process_time()
        listed = (await tiny.http.get("/v1/models")).json()["data"]
        assert time.process_time() - started < 1  # 0.2 s on a quiet machine
        assert len(listed) == 10_001


async def test_versions_whose_weights_this_engine_would_ignore_are_taken_out_of_service(
    tiny_base: ResolvedBase, tmp_path: Path
) -> None:
    """An adapter of a head that was accepted on a CPU must not answer like the base on a GPU."""
    async with tiny_server(tmp_path, tiny_base) as tiny:
        await tiny.add("tone")
        service = tiny.server.adapter_service
        refused = {
            path: module.model_copy(update={"refusal": "not on this machine"}) if "v_proj" in path else module
            for path, module in BASE.modules.items()
        }
        spec = service.ingest.base.spec.model_copy(update={"modules_digest": "0" * 64})
        base = BaseDescription.of(refused, spec=spec, parameters=BASE.parameters)
        storage = SimpleNamespace(base=base, resolver=service.resolver, store=service.ingest.store)
        quarantine_unserved(service, storage)  # type: ignore[arg-type]
        with pytest.raises(openai.InternalServerError, match="taken out of service"):
            await tiny.chat("tone")
        (version,) = service.get(AdapterName("tone")).versions
        assert "v_proj: not on this machine" in (version.reason or "")
