"""Experiments over HTTP, on the fake engine: its answers name the route that gave them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_adapters.errors import StoreError
from loramux_server.base_model import ResolvedBase
from tests.helpers.experiment_traffic import STYLE, chat, recorded, start, stored, user_of
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    prices = {"base": {"input": 1, "output": 2}}
    async with tiny_server(
        tmp_path_factory.mktemp("experiments"), tiny_base, keys=("key-1", "key-2"), prices=prices
    ) as tiny:
        tiny.http.headers["authorization"] = "Bearer key-1"
        await tiny.add("tone")
        yield tiny


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def no_experiment(tiny: TinyServer) -> AsyncIterator[None]:
    yield
    for running in tiny.server.experimentation.parts.live.all():
        await tiny.server.experimentation.service.stop(running.experiment.id, actor="test")


async def test_each_user_stays_on_one_variant_and_responses_keep_the_requested_model(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    for variant, route in (("adapter", "[tone@"), ("baseline", "[base]")):
        user = user_of(experiment, variant)
        for _ in range(3):
            header, completion = await chat(tiny, user)
            assert header == f"{experiment['id']}/{variant}"
            assert completion.model == "tone"
            assert completion.choices[0].message.content.startswith(route)


async def test_an_api_key_is_no_unit(tiny: TinyServer) -> None:
    """Many people may share a key: requests without a user are assigned one by one."""
    await start(tiny)
    headers = {(await chat(tiny))[0].rpartition("/")[2] for _ in range(40)}
    assert headers == {"adapter", "baseline"}


async def test_streams_and_several_choices_are_answered_by_the_variant(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    user = user_of(experiment, "baseline")
    _, completion = await chat(tiny, user, n=2)
    assert [choice.message.content[:6] for choice in completion.choices] == ["[base]", "[base]"]
    raw = await tiny.client.chat.completions.with_raw_response.create(
        model="tone", messages=[{"role": "user", "content": "x"}], max_tokens=12, user=user, stream=True
    )
    chunks = [chunk async for chunk in raw.parse()]
    assert raw.headers["x-loramux-experiment"] == f"{experiment['id']}/baseline"
    assert {chunk.model for chunk in chunks} == {"tone"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).startswith("[base]")


async def test_pinned_versions_and_the_base_are_part_of_no_experiment(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    for model in (experiment["challenger"]["version"], tiny.server.base_name):
        header, completion = await chat(tiny, user_of(experiment, "baseline"), model)
        assert (header, completion.model) == ("", model)


async def test_the_baselines_prompt_replaces_the_requests_system_message_and_precedes_its_turns(
    tiny: TinyServer,
) -> None:
    prompt = [
        {"role": "system", "content": "S" * 30},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    experiment = await start(tiny, baseline={"prompt": prompt})
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "hello"}]
    _, short = await chat(tiny, user_of(experiment, "adapter"), messages=own)
    _, long = await chat(tiny, user_of(experiment, "baseline"), messages=own)
    added = len("<system></s>") + 30 - len("<system>own</s>") + len("<user>q</s><assistant>a</s>") - 2 * len("</s>") + 2
    assert long.usage.prompt_tokens - short.usage.prompt_tokens == added


async def test_a_request_that_the_baseline_cannot_answer_is_answered_by_the_adapter_and_counts_as_its_failure(
    tiny: TinyServer,
) -> None:
    """By intention to treat: the prompt with its examples is longer than the context."""
    experiment = await start(tiny, baseline={"prompt": [{"role": "system", "content": "long " * 60}]}, quality=STYLE)
    user = user_of(experiment, "baseline")
    header, completion = await chat(tiny, user)
    assert header == f"{experiment['id']}/adapter; assigned=baseline"
    assert completion.choices[0].message.content.startswith("[tone@")
    assert (await chat(tiny, user, stream=True))[0] == header
    shown = await recorded(tiny, experiment, 1)
    assert shown["report"]["reference"]["failed"] >= 1
    assert shown["report"]["reference"]["score"]["estimate"] == 0


async def test_a_request_that_is_invalid_for_both_variants_counts_for_none(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    for variant in ("adapter", "baseline"):
        with pytest.raises(openai.BadRequestError):
            await chat(tiny, user_of(experiment, variant), messages=[{"role": "user", "content": "x" * 400}])
    await chat(tiny, user_of(experiment, "adapter"))
    shown = await recorded(tiny, experiment, 1)
    report = shown["report"]
    assert (report["challenger"]["requests"], report["reference"]["requests"]) == (1, 0)
    assert (await stored(tiny, experiment["id"])).counters == {"not counted: the request itself was refused": 2}


async def test_a_scorer_decides_when_the_difference_is_clear(tiny: TinyServer) -> None:
    experiment = await start(tiny, quality=STYLE)
    for number in range(60):
        await chat(tiny, f"person-{number}", stream=False)
    shown = await recorded(tiny, experiment, 60)
    report = shown["report"]
    assert report["verdict"] == "better"
    assert report["sentence"].startswith("adapter is better than baseline: +1.00")
    assert report["challenger"]["score"]["estimate"] == 1
    assert report["reference"]["score"]["estimate"] == 0
    assert report["warnings"] == []
    measures = {ratio["measure"] for ratio in report["ratios"]}
    assert {"duration", "input_tokens", "output_tokens", "price_list_cost"} <= measures


async def test_streamed_answers_are_scored_too(tiny: TinyServer) -> None:
    experiment = await start(tiny, quality=STYLE)
    stream = await tiny.client.chat.completions.create(
        model="tone",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=12,
        user=user_of(experiment, "adapter"),
        stream=True,
    )
    [chunk async for chunk in stream]
    shown = await recorded(tiny, experiment, 1)
    assert shown["report"]["challenger"]["score"]["estimate"] == 1


async def test_it_continues_after_a_restart_and_its_report_stays_when_it_was_stopped(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    live, service = tiny.server.experimentation.parts.live, tiny.server.experimentation.service
    live.remove(await stored(tiny, experiment["id"]))
    assert (await chat(tiny))[0] == ""
    await service.resume()
    assert (await chat(tiny))[0].startswith(experiment["id"])
    await recorded(tiny, experiment, 1)
    stopped = (await tiny.http.delete(f"/admin/experiments/{experiment['id']}")).json()
    assert (stopped["state"], stopped["reason"]) == ("stopped", "It was stopped.")
    assert stopped["report"]["challenger"]["requests"] + stopped["report"]["reference"]["requests"] == 1
    assert (await chat(tiny))[0] == ""
    again = await tiny.http.delete(f"/admin/experiments/{experiment['id']}")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "experiment_ended")
    changes = (await tiny.http.get("/admin/audit?adapter=tone&limit=2")).json()["data"]
    assert [change["action"] for change in changes] == ["experiment_end", "experiment_start"]


async def test_an_experiment_whose_end_can_not_be_stored_goes_on(
    tiny: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise StoreError("The experiments can't be read or written.")

    experiment = await start(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(tiny.server.experimentation.service.repository, "end", fail)
        assert (await tiny.http.delete(f"/admin/experiments/{experiment['id']}")).status_code == 500
    assert (await chat(tiny))[0].startswith(experiment["id"])
    assert (await tiny.http.delete(f"/admin/experiments/{experiment['id']}")).json()["state"] == "stopped"


async def test_requests_that_are_recorded_after_the_end_do_not_change_what_was_left_out(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    with pytest.raises(openai.BadRequestError):
        await chat(tiny, "user", messages=[{"role": "user", "content": "x" * 400}])
    await chat(tiny, "user")
    await recorded(tiny, experiment, 1)
    await chat(tiny, "user")
    await tiny.http.delete(f"/admin/experiments/{experiment['id']}")
    await recorded(tiny, experiment, 2)
    assert (await stored(tiny, experiment["id"])).counters == {"not counted: the request itself was refused": 1}


async def test_an_adapter_has_at_most_one_experiment_and_its_name_stays(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    version = experiment["challenger"]["version"]
    body = {"adapter": "tone", "baseline": {}, "quality": {"type": "feedback"}}
    second = await tiny.http.post("/admin/experiments", json=body)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "experiment_running")
    for method, path, sent in (
        ("PUT", "alias", {"targets": [{"version": version}]}),
        ("POST", "rollback", None),
    ):
        refused = await tiny.http.request(method, f"/admin/adapters/tone/{path}", json=sent)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "experiment_running")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "nobody"}, "No adapter"),
        ({"adapter": "../x"}, "name"),
        ({"share": 0}, "share"),
        ({"share": 1.5}, "share"),
        ({"share": float("nan")}, "share"),
        ({"share": 1}, "100 %"),
        ({"margin": 0}, "margin"),
        ({"quality": {"type": "scorer", "scorer": {"type": "exact"}}}, "expected answer"),
        ({"quality": {"type": "scorer", "scorer": {"type": "function", "function": "os:system"}}}, "code"),
        ({"quality": {"type": "scorer", "scorer": {"type": "what"}}}, "unknown scorer"),
        ({"quality": {"type": "scorer", "scorer": {"type": "style", "rules": {"a": {"keep": "x"}}}}}, "keep"),
        ({"quality": {"type": "scorer", "scorer": {"type": "style", "rules": {"a": {"match": "("}}}}}, "invalid"),
        ({"quality": {"type": "scorer", "scorer": {"type": "json", "schema": {"$ref": "http://x/y"}}}}, "refers"),
        ({"quality": {"type": "judge", "model": "nobody", "rubric": "x"}}, "nobody"),
        ({"shadow": True}, "never see"),
        ({"baseline": {"model": "other@" + "a" * 12}}, "no version of"),
        ({"baseline": {"model": "tone@" + "a" * 12}}, "does not exist"),
        ({"baseline": {"model": "tone"}}, "NAME@DIGEST"),
        ({"baseline": {"prompt": [{"role": "robot", "content": "x"}]}}, "role"),
        ({"baseline": {"prompt": [{"role": "user", "content": ""}]}}, "content"),
        ({"baseline": None}, "one of baseline and candidate"),
        ({"promotion": {"when": "better"}}, "candidate"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_an_experiment_that_cannot_be_done_is_refused_with_the_reason(
    tiny: TinyServer, change: dict[str, Any], message: str
) -> None:
    body = {"adapter": "tone", "baseline": {}, "share": 0.5, "quality": {"type": "feedback"}} | change
    content = json.dumps(body).encode()
    refused = await tiny.http.post("/admin/experiments", content=content, headers={"content-type": "application/json"})
    assert refused.status_code in (400, 404), refused.text
    assert message in refused.json()["error"]["message"]


async def test_an_unknown_experiment_is_not_found(tiny: TinyServer) -> None:
    for method in ("GET", "DELETE"):
        missing = await tiny.http.request(method, "/admin/experiments/exp_none")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "experiment_not_found")


async def test_a_body_that_is_too_large_is_refused(tiny: TinyServer) -> None:
    body = {
        "adapter": "tone",
        "baseline": {"prompt": [{"role": "user", "content": "x" * 2_000_000}]},
        "quality": {"type": "feedback"},
    }
    refused = await tiny.http.post("/admin/experiments", json=body)
    assert refused.status_code == 413
