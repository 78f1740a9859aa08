"""Which bad adapters get into loramux and into stock vLLM, and whom they harm there."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.bursts import BurstFailedError
from benchmarks.progress import Steps
from benchmarks.robustness.adapter_api import Door, LoramuxDoor, StockDoor
from benchmarks.robustness.bad_adapters import BAD, MAX_RANK
from benchmarks.robustness.corrupt import Draft, write_sound
from benchmarks.robustness.faults import MISHAPS, Case, Outcome, accepted, told
from benchmarks.robustness.server_under_test import (
    GOOD,
    KV_CACHE_BYTES,
    MAX_MODEL_LEN,
    PLACES,
    QUESTIONS,
    SLOTS,
    SPARES,
    Subject,
)
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import Client
from loramux_loadtests.report import Finding, Report, rows_as_table
from loramux_loadtests.servers import (
    RunningServer,
    ServerFailedError,
    ServerSpec,
    Setup,
    loramux,
    register,
    running,
    stock,
)

ANSWERS_WITHIN_S = 60.0
OTHERS = 2 * len(QUESTIONS)
"""How many requests of others are looked at after each case."""
MAX_SAID = 160
DOORS: Mapping[str, Callable[[aiohttp.ClientSession], Door]] = {"loramux": LoramuxDoor, "stock": StockDoor}


@dataclass(frozen=True)
class Row:
    """What came of one case on one server; `harmed` of OTHERS requests failed or were answered otherwise."""

    server: str
    case: str
    got_in: bool
    harmed: int
    said: str


def cases() -> dict[str, Case]:
    """All of them: the bad adapters, and what can befall a good one."""
    return {**{name: partial(_offered, spoil) for name, spoil in BAD.items()}, **MISHAPS}


async def bad(setup: Setup, scratch: Path, steps: Steps, *, tried: Mapping[str, Case]) -> Report:
    """Try every case on both servers: how many got in, and how many requests of others they harmed."""
    setup = _with_sound(setup, scratch / "adapters")
    steps.expect(2 * (1 + len(tried)))
    specs = {"loramux": partial(loramux, setup, scratch / "data"), "stock": partial(stock, setup)}
    rows: list[Row] = []
    numbers = itertools.count(1)
    for name, spec in specs.items():
        rows += await _Survey(name, spec, setup, scratch, steps, numbers).run(tried)
    return Report(
        "Bad adapters",
        "Got in: the server accepted it, and a request for it was answered with 200 (for new weights under an old "
        "name: the answer was mixed from both; for pins: no other adapter could be used). Harmed: requests for the "
        f"base and for a good adapter, of {OTHERS} after each case, that failed or were answered otherwise than "
        "before. A server that harmed is started again before the next case.",
        [finding for name in specs for finding in _findings(name, rows)],
        {**setup.engine, **setup.environment},
        [asdict(row) for row in rows],
        _details(rows),
    )


def _with_sound(setup: Setup, folder: Path) -> Setup:
    sound = {name: write_sound(folder / name, setup.base, 1000 + i) for i, name in enumerate((GOOD, *SPARES))}
    few = {"max_loras": SLOTS, "max_cpu_loras": PLACES, "max_lora_rank": MAX_RANK}
    small = {"kv_cache_memory_bytes": KV_CACHE_BYTES, "max_model_len": MAX_MODEL_LEN}
    environment = {**setup.environment, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    return replace(setup, adapters=sound, engine={**setup.engine, **few, **small}, environment=environment)


@dataclass(frozen=True)
class _Survey:
    """All cases on one server, which is started again whenever one harmed."""

    name: str
    spec: Callable[[], ServerSpec]
    setup: Setup
    scratch: Path
    steps: Steps
    numbers: Iterator[int]

    async def run(self, tried: Mapping[str, Case]) -> list[Row]:
        """One row a case; ServerFailedError if the server does not start."""
        waiting, rows = iter(tried.items()), list[Row]()
        while len(rows) < len(tried):
            before = len(rows)
            try:
                await self._one_life(waiting, rows)
            except ServerFailedError:
                if len(rows) == before:
                    raise
        return rows

    async def _one_life(self, waiting: Iterator[tuple[str, Case]], rows: list[Row]) -> None:
        """Start the server and go on with the cases until one harms."""
        self.steps.begin(f"starting {self.name}")
        async with (
            running(self.spec(), self.scratch / f"{self.name}.log") as server,
            self._subject(server) as subject,
        ):
            if self.name == "loramux":
                await register(server.url, self.setup.adapters)
            await subject.door.withdraw((await accepted(subject)).name)  # or else nothing here would mean anything
            before = await subject.answers()
            for case, tried in waiting:
                self.steps.begin(f"{self.name}: {case}")
                row = await self._row(subject, case, tried, before)
                rows.append(row)
                if row.harmed:
                    return

    @asynccontextmanager
    async def _subject(self, server: RunningServer) -> AsyncIterator[Subject]:
        patience = aiohttp.ClientTimeout(total=ANSWERS_WITHIN_S)
        async with (
            aiohttp.ClientSession(server.url, timeout=patience) as session,
            Client(server.url, timeout=ANSWERS_WITHIN_S) as client,
        ):
            copies = self.scratch / "data" if self.name == "loramux" else None
            folder = self.scratch / "adapters"
            yield Subject(self.name, DOORS[self.name](session), client, self.setup.base, folder, copies, self.numbers)

    async def _row(self, subject: Subject, case: str, tried: Case, before: Sequence[str | None]) -> Row:
        try:
            outcome, refused = await tried(subject), 0
        except BurstFailedError as error:  # a sound adapter, which the case needed, was not served
            outcome, refused = Outcome(False, str(error)), 1
        after = await subject.answers()
        harmed = refused + sum(old != new for old, new in zip(before, after, strict=True))
        words = outcome.said.replace(str(self.scratch), "").replace(subject.client.url, "")
        return Row(self.name, case, outcome.got_in, harmed, words[:MAX_SAID])


async def _offered(spoil: Callable[[Draft], None], subject: Subject) -> Outcome:
    draft = subject.draft()
    spoil(draft)
    answer = await subject.door.offer(draft.name, draft.path)
    replies = await subject.fill(draft.name) if answer.accepted else [await subject.ask(draft.name)]
    await subject.door.withdraw(draft.name)
    got_in = answer.accepted and any(reply.ok for reply in replies)
    return Outcome(got_in, told(replies) if answer.accepted else answer.said)


def _findings(name: str, rows: Sequence[Row]) -> list[Finding]:
    mine = [row for row in rows if row.server == name]
    goal = 0.0 if name == "loramux" else None
    counts = {
        f"cases that got in, of {len(mine)}": sum(row.got_in for row in mine),
        f"requests of others harmed, of {OTHERS * len(mine)}": sum(row.harmed for row in mine),
    }
    return [
        Finding(f"{name}: {words}", spread([float(count)]), "count", at_most=goal) for words, count in counts.items()
    ]


def _details(rows: Sequence[Row]) -> list[str]:
    """Every case with what each server made of it."""
    columns = ["case", *(f"{name}: {what}" for name in DOORS for what in ("got in", "harmed", "said"))]
    lines: dict[str, list[str]] = {}
    for row in rows:  # those of the first server come first
        said = " ".join(row.said.replace("|", "/").split())
        lines.setdefault(row.case, []).extend(["**yes**" if row.got_in else "no", str(row.harmed or ""), said])
    return rows_as_table(columns, [[case, *cells] for case, cells in lines.items()])
