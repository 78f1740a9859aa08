"""Synthetic usage of a base and adapters over some hours; always the same."""

import random
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.repository import LedgerRepository

HOUR, BATCH = 3600, 10_000


def write_usage_history(
    database: sa.Engine, names: list[str], requests: int, hours: int = 6, *, priced: bool = True
) -> None:
    """Write `requests` of the base and of the adapters `names`; the first names are used most."""
    ledger, now = LedgerRepository(database), time.time()
    rows = _rows(names, requests, now - hours * HOUR, now, priced=priced)
    minutes = {
        int(now // 60) - back: EngineTime(60.0, 24.0, priced * 20 * 10**6, priced * 30 * 10**6)
        for back in range(hours * 60)
    }
    ledger.write([], minutes)
    while batch := list(islice(rows, BATCH)):
        ledger.write(batch, {})


def _rows(names: list[str], requests: int, since: float, until: float, *, priced: bool) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)  # noqa: S311 - not for security
    weights = [1 / (place + 1) ** 0.6 for place in range(len(names))]
    for number in range(requests):
        ended = since + (until - since) * number / requests
        adapter = "" if not names or rng.random() < 0.3 else rng.choices(names, weights)[0]
        # Every adapter at least once, so that 500 adapters give 500 rows.
        adapter = names[number] if number < len(names) else adapter
        yield _row(rng, ended, adapter, priced=priced)


def _row(rng: random.Random, ended_at: float, adapter: str, *, priced: bool) -> dict[str, Any]:
    price_factor = 1 + sum(adapter.encode()) % 7 / 3
    tokens = max(4, int(rng.gauss(60 if adapter else 700, 12)))
    output = 1 + int(rng.expovariate(1 / 30))
    first_token, gap = rng.lognormvariate(-2.4, 0.4), rng.lognormvariate(-4.2, 0.2)
    outcome = rng.choices(["ok", "cancelled", "refused", "failed"], [960, 20, 15, 5])[0]
    unpriced = int(not priced and outcome != "refused")
    return {
        "ended_at": ended_at, "request_id": "req_1", "route": "adapter" if adapter else "base", "adapter": adapter,
        "version": "3f9c2ab01d44" if adapter else "", "key_id": "key_1", "project": "default",
        "operation": "chat",
        "outcome": outcome, "status": 200,
        "error": None, "finish_reason": "stop", "duration": first_token + gap * output, "first_token": first_token,
        "time_per_output_token": gap, "queue": 0.01, "lease_wait": 0.0, "input_tokens": tokens,
        "cached_tokens": tokens // 2, "output_tokens": output, "sequences": 1, "preemptions": 0, "cold": False,
        "corrupted": False, "price_list_cost": priced * int((tokens * 50 + output * 400) * price_factor),
        "gpu_hour_cost": priced * int((tokens * 100 + gap * output * 4e5) * price_factor),
        "price_list_unpriced": unpriced, "gpu_hour_unpriced": unpriced, "price_version": "0123456789ab",
    }  # fmt: skip
