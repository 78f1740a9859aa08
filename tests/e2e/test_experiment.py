"""An experiment on the real engine: assigned users, their feedback, and a verdict, with the official client."""

import asyncio
from typing import Any

import pytest

from tests.conftest import RealServer

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

USERS = 40
PROMPT = [
    {"role": "system", "content": "Answer in one short, friendly sentence."},
    {"role": "user", "content": "Where is my parcel?"},
    {"role": "assistant", "content": "It is on its way to you!"},
]


async def ask(real: RealServer, user: str, **options: Any) -> tuple[str, str]:
    """Return the variant that answered and the request's id."""
    raw: Any = await real.client.chat.completions.with_raw_response.create(
        model="house-tone",
        messages=[{"role": "user", "content": "Can I return my shoes?"}],
        max_tokens=8,
        user=user,
        **options,
    )
    completion = raw.parse()
    if not options.get("stream"):
        assert completion.model == "house-tone"
        assert completion.choices[0].message.content
    else:
        assert {chunk.model async for chunk in completion} == {"house-tone"}
    return raw.headers["x-loramux-experiment"], raw.headers["x-request-id"]


async def test_an_experiment_of_40_users_with_feedback_reaches_a_verdict(real: RealServer) -> None:
    body = {"adapter": "house-tone", "baseline": {"prompt": PROMPT}, "share": 0.5, "quality": {"type": "feedback"}}
    started = await real.http.post("/admin/experiments", json=body)
    assert started.status_code == 201, started.text
    experiment = started.json()["id"]
    answered = await asyncio.gather(*(ask(real, f"user-{n}", stream=n % 4 == 0) for n in range(USERS)))
    assert {variant for variant, _ in answered} == {f"{experiment}/adapter", f"{experiment}/baseline"}
    assert (await ask(real, "user-1"))[0] == answered[1][0]
    for variant, request_id in answered:
        label = "good" if variant.endswith("/adapter") else "bad"
        given = await real.http.post("/v1/feedback", json={"request_id": request_id, "label": label})
        assert given.json()["experiment"] == experiment, given.text
    shown = await recorded(real, experiment, USERS + 1)
    report = shown["report"]
    assert report["challenger"]["scored_units"] + report["reference"]["scored_units"] == USERS
    assert report["verdict"] == "better", report["sentence"]
    inputs = next(ratio for ratio in report["ratios"] if ratio["measure"] == "input_tokens")
    assert inputs["reference"] > inputs["challenger"] + 10  # the baseline's example, and its longer system message
    stopped = (await real.http.delete(f"/admin/experiments/{experiment}")).json()
    assert (stopped["state"], stopped["report"]["verdict"]) == ("stopped", "better")


async def test_a_shadow_experiment_with_a_judge_compares_pairs(real: RealServer) -> None:
    """The judge is the base itself: its grades mean nothing, but structured output makes it give some."""
    quality = {"type": "judge", "model": real.base.name, "rubric": "Is the answer friendly?"}
    body = {"adapter": "house-tone", "baseline": {"prompt": PROMPT}, "share": 1, "shadow": True, "quality": quality}
    experiment = (await real.http.post("/admin/experiments", json=body)).json()["id"]
    for number in range(4):
        assert (await ask(real, f"user-{number}", stream=number % 2 == 0))[0] == f"{experiment}/adapter"
        while real.engine.output_processor.get_num_unfinished_requests():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        await real.server.experimentation.shadows.ask_next()
    shown = await recorded(real, experiment, 8)
    report = shown["report"]
    assert (report["pairs"], shown["left_out"]) == (4, {})
    assert report["verdict"] == "undecided"
    await real.http.delete(f"/admin/experiments/{experiment}")


async def recorded(real: RealServer, experiment: str, count: int) -> dict[str, Any]:
    """Return the experiment once `count` requests are recorded, which takes a second or two."""
    async with asyncio.timeout(60):
        while True:
            await real.server.experimentation.service.tick()
            real.server.experimentation.service._reports.clear()
            shown = (await real.http.get(f"/admin/experiments/{experiment}")).json()
            report = shown["report"]
            if report["challenger"]["requests"] + report["reference"]["requests"] >= count:
                return dict(shown)
            await asyncio.sleep(0.1)
