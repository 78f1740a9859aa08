import asyncio
import logging
import random
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web

from loramux_adapters.background_tasks import running_task
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_server.webhooks import delivery as module
from loramux_server.webhooks.delivery import WebhookDelivery
from loramux_server.webhooks.endpoints import WebhookSettings
from loramux_server.webhooks.outbox import LEASE_SECONDS, Outbox
from loramux_server.webhooks.tables import outbox as outbox_table
from tests.helpers.fine_tuning_jobs import job_record
from tests.helpers.webhook_receiver import SECRET, receiving

ROOT = Path(__file__).parents[3]


def webhook(url: str, **changes: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"url": url, "secret": SECRET} | changes)


def end(engine: sa.Engine, *webhooks: WebhookSettings, state: JobState = JobState.SUCCEEDED) -> JobRecord:
    """End a job, as the registry does."""
    job = job_record(state)
    with engine.begin() as connection:
        Outbox(engine, webhooks).add(connection, job, time.time())
    return job


def waiting(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(outbox_table)).scalar_one()


@asynccontextmanager
async def delivering(engine: sa.Engine, *webhooks: WebhookSettings, **options: Any) -> AsyncIterator[list[str]]:
    """Deliver while the context is active; yields the outcomes of the attempts."""
    outcomes: list[str] = []
    options = {"poll_seconds": 0.01, "first_pause": 0.01} | options
    delivery = WebhookDelivery(Outbox(engine, webhooks), webhooks, outcomes.append, **options)
    async with running_task(delivery.run_forever()):
        yield outcomes


async def until_empty(engine: sa.Engine) -> None:
    async with asyncio.timeout(20):
        while waiting(engine):  # noqa: ASYNC110 - as another process looks
            await asyncio.sleep(0.01)


async def test_each_outcome_of_a_job_is_delivered_once_signed_to_those_that_want_it(engine: sa.Engine) -> None:
    async with receiving() as every, receiving() as failures:
        hooks = webhook(every.url), webhook(failures.url, events=["fine_tuning.job.failed"])
        for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            end(engine, *hooks, state=state)
        async with delivering(engine, *hooks) as outcomes:
            await until_empty(engine)
        types = [f"fine_tuning.job.{state}" for state in ("succeeded", "failed", "cancelled")]
        assert [event.type for event in every.events()] == types
        assert [event.type for event in failures.events()] == types[1:2]
        assert outcomes == ["delivered"] * 4
        [path, _, headers] = every.requests[0]
        assert (path, headers["Content-Type"]) == ("/hook", "application/json")


async def test_a_receiver_that_fails_gets_the_same_event_again(engine: sa.Engine) -> None:
    async def fail_twice(number: int) -> web.Response:
        return web.Response(status=500 if number < 2 else 204)

    async with receiving(fail_twice) as receiver:
        end(engine, webhook(receiver.url))
        async with delivering(engine, webhook(receiver.url)) as outcomes:
            await until_empty(engine)
        assert outcomes == ["failed", "failed", "delivered"]
        assert len({event.id for event in receiver.events()}) == 1


async def test_a_redirect_is_not_followed(engine: sa.Engine) -> None:
    async with receiving() as inside:

        async def redirect(_: int) -> web.Response:
            return web.Response(status=307, headers={"location": inside.url})

        async with receiving(redirect) as receiver:
            end(engine, webhook(receiver.url))
            async with delivering(engine, webhook(receiver.url)) as outcomes:
                await receiver.until(2)
        assert inside.requests == []
        assert set(outcomes) == {"failed"}


async def test_a_receiver_that_does_not_answer_delays_no_other(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    silence = asyncio.Event()

    async def stall(_: int) -> web.Response:
        await silence.wait()
        return web.Response()

    async with receiving(stall) as slow, receiving() as quick:
        hooks = webhook(slow.url), webhook(quick.url)
        for _ in range(3):
            end(engine, *hooks)
        async with delivering(engine, *hooks) as outcomes:
            await quick.until(3)
            await slow.until(2)
        silence.set()
    assert outcomes.count("delivered") == 3
    assert "failed" in outcomes


async def test_a_message_survives_a_kill_during_its_delivery(engine: sa.Engine) -> None:
    silence = asyncio.Event()

    async def stall_first(number: int) -> web.Response:
        if number == 0:
            await silence.wait()
        return web.Response()

    async with receiving(stall_first) as receiver:
        hook = webhook(receiver.url)
        end(engine, hook)
        async with delivering(engine, hook):
            await receiver.until(1)
        assert waiting(engine) == 1
        async with delivering(engine, hook):  # another server, during the lease
            await asyncio.sleep(0.05)
            assert len(receiver.requests) == 1
        async with delivering(engine, hook, now=lambda: time.time() + LEASE_SECONDS):
            await until_empty(engine)
        silence.set()
        [first, second] = receiver.requests
        assert first[2]["webhook-id"] == second[2]["webhook-id"]


@pytest.mark.slow
async def test_a_message_survives_a_sigkill_during_its_delivery(engine: sa.Engine, tmp_path: Path) -> None:
    silence = asyncio.Event()

    async def stall_first(number: int) -> web.Response:
        if number == 0:
            await silence.wait()
        return web.Response()

    async with receiving(stall_first) as receiver:
        arguments = ["-m", "tests.helpers.processes.deliver_webhook", str(tmp_path / "webhooks.sqlite"), receiver.url]
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=PIPE)
        assert process.stdout
        job = (await process.stdout.readline()).decode().strip()
        await receiver.until(1)
        process.kill()
        await process.wait()
        assert waiting(engine) == 1
        async with delivering(engine, webhook(receiver.url), now=lambda: time.time() + LEASE_SECONDS):
            await until_empty(engine)
        silence.set()
        assert [getattr(event.data, "id", None) for event in receiver.events()] == [job, job]


async def test_two_servers_do_not_both_deliver_a_message(engine: sa.Engine) -> None:
    async with receiving() as receiver:
        hook = webhook(receiver.url)
        for _ in range(10):
            end(engine, hook)
        async with delivering(engine, hook), delivering(engine, hook):
            await until_empty(engine)
        assert len(receiver.requests) == 10


async def test_after_three_days_a_message_is_given_up(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_: int) -> web.Response:
        return web.Response(status=410)

    async with receiving(refuse) as receiver:
        hook = webhook(f"{receiver.url}?token=secret")
        end(engine, hook)
        with caplog.at_level(logging.DEBUG):
            async with delivering(engine, hook, now=lambda: time.time() + 72 * 3600) as outcomes:
                await until_empty(engine)
    assert outcomes == ["given_up"]
    assert "status 410" in caplog.text
    assert "token" not in caplog.text
    assert SECRET not in caplog.text


async def test_nobody_listens(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    hook = webhook("http://127.0.0.1:9/token-in-a-path")
    end(engine, hook)
    async with delivering(engine, hook) as outcomes, asyncio.timeout(20):
        while len(outcomes) < 2:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    assert waiting(engine) == 1
    assert "token-in-a-path" not in caplog.text


async def test_a_database_that_fails_is_tried_again(engine: sa.Engine, tmp_path: Path) -> None:
    async with receiving() as receiver:
        hook = webhook(receiver.url)
        end(engine, hook)
        with engine.begin() as connection:
            connection.execute(sa.text("alter table webhook_outbox rename to away"))
        async with delivering(engine, hook):
            await asyncio.sleep(0.05)
            with engine.begin() as connection:
                connection.execute(sa.text("alter table away rename to webhook_outbox"))
            await receiver.until(1)
            await until_empty(engine)


async def test_a_message_to_a_url_that_is_no_longer_set_waits_for_it_and_is_removed_in_the_end(
    engine: sa.Engine,
) -> None:
    end(engine, webhook("https://example.com/old"))
    await asyncio.wait_for(WebhookDelivery(Outbox(engine, ()), ()).run_forever(), 5)
    assert waiting(engine) == 1
    later = time.time() + 80 * 3600
    await asyncio.wait_for(WebhookDelivery(Outbox(engine, ()), (), now=lambda: later).run_forever(), 5)
    assert waiting(engine) == 0


def test_pauses_grow_to_an_hour(engine: sa.Engine) -> None:
    rng = random.Random(1)  # noqa: S311
    delivery = WebhookDelivery(Outbox(engine, ()), (), rng=rng)
    pauses = [delivery._pause(attempt) for attempt in range(1, 60)]
    assert 2.5 <= pauses[0] <= 5
    assert 5 <= pauses[1] <= 10
    assert all(1800 <= pause <= 3600 for pause in pauses[10:])
