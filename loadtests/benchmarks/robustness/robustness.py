"""Which bad adapters loramux and stock vLLM serve, and which other requests they affect."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.bursts import BurstFailedError
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from benchmarks.robustness.adapter_api import AdapterApi, LoramuxAdapterApi, StockAdapterApi
from benchmarks.robustness.bad_adapters import BAD_ADAPTERS, MAX_RANK
from benchmarks.robustness.corrupt import CandidateAdapter, write_sound_adapter
from benchmarks.robustness.faults import FAULTS, CaseOutcome, RobustnessCase, add_sound_adapter, format_replies
from benchmarks.robustness.server_under_test import (
    GOOD_ADAPTER,
    KV_CACHE_BYTES,
    MAX_CPU_LORAS,
    MAX_LORAS,
    MAX_MODEL_LEN,
    QUESTIONS,
    SPARE_ADAPTERS,
    ServerUnderTest,
)
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.report_tables import markdown_table
from loramux_loadtests.servers import (
    RunningServer,
    ServerFailedError,
    ServerSetup,
    ServerSpec,
    loramux_spec,
    register_adapters,
    running,
    stock_spec,
)

REQUEST_TIMEOUT_S = 60.0
OTHER_REQUESTS = 2 * len(QUESTIONS)
"""Number of requests for sound models that are checked after each case."""
MAX_MESSAGE_LENGTH = 160
ADAPTER_APIS: Mapping[str, Callable[[aiohttp.ClientSession], AdapterApi]] = {
    "loramux": LoramuxAdapterApi,
    "stock": StockAdapterApi,
}


@dataclass(frozen=True)
class CaseRow:
    """The result of one case on one server; `affected` of OTHER_REQUESTS failed or got another answer than before."""

    server: str
    case: str
    bad_served: bool
    affected: int
    response: str


def all_cases() -> dict[str, RobustnessCase]:
    """Return all cases: bad adapters, and faults of sound ones."""
    return {**{name: partial(_add_bad_adapter, corrupt) for name, corrupt in BAD_ADAPTERS.items()}, **FAULTS}


async def measure_robustness(
    setup: ServerSetup,
    scratch: Path,
    progress: StepProgress,
    *,
    cases: Mapping[str, RobustnessCase],
    servers: Sequence[str] = tuple(ADAPTER_APIS),
) -> BenchmarkReport:
    """Run every case on the servers: count the bad adapters that are served and the other requests affected."""
    setup = _with_sound_adapters(setup, scratch / "adapters")
    progress.set_total(len(servers) * (1 + len(cases)))
    specs = {"loramux": partial(loramux_spec, setup, scratch / "data"), "stock": partial(stock_spec, setup)}
    rows: list[CaseRow] = []
    numbers = itertools.count(1)
    for name in servers:
        rows += await _CaseRunner(name, specs[name], setup, scratch, progress, numbers).run(cases)
    return BenchmarkReport(
        "Bad adapters",
        "Served: the server accepted the adapter and answered a request for it with 200 (new weights under "
        "an old name: "
        "the answer mixed both; pins: no other adapter could be used). Affected: requests for the base and a good "
        f"adapter, out of {OTHER_REQUESTS} after each case, that failed or got another answer than before. "
        "A server with "
        "affected requests is restarted before the next case.",
        [metric for name in servers for metric in _metrics(name, rows)],
        {**setup.engine, **setup.environment},
        [asdict(row) for row in rows],
        _case_table(rows),
    )


def _with_sound_adapters(setup: ServerSetup, folder: Path) -> ServerSetup:
    sound = {
        name: write_sound_adapter(folder / name, setup.base, 1000 + i)
        for i, name in enumerate((GOOD_ADAPTER, *SPARE_ADAPTERS))
    }
    few = {"max_loras": MAX_LORAS, "max_cpu_loras": MAX_CPU_LORAS, "max_lora_rank": MAX_RANK}
    small = {"kv_cache_memory_bytes": KV_CACHE_BYTES, "max_model_len": MAX_MODEL_LEN}
    environment = {**setup.environment, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    return replace(setup, adapters=sound, engine={**setup.engine, **few, **small}, environment=environment)


@dataclass(frozen=True)
class _CaseRunner:
    """Runs all cases on one server, and restarts it after each case that affected other requests."""

    name: str
    spec: Callable[[], ServerSpec]
    setup: ServerSetup
    scratch: Path
    progress: StepProgress
    numbers: Iterator[int]

    async def run(self, cases: Mapping[str, RobustnessCase]) -> list[CaseRow]:
        """Return one row per case.

        Raises:
            ServerFailedError: the server does not start.
        """
        waiting, rows = iter(cases.items()), list[CaseRow]()
        while len(rows) < len(cases):
            before = len(rows)
            try:
                await self._run_until_affected(waiting, rows)
            except ServerFailedError:
                if len(rows) == before:
                    raise
        return rows

    async def _run_until_affected(self, waiting: Iterator[tuple[str, RobustnessCase]], rows: list[CaseRow]) -> None:
        """Start the server and run cases until one affects other requests."""
        self.progress.begin(f"starting {self.name}")
        async with (
            running(self.spec(), self.scratch / f"{self.name}.log") as server,
            self._server_under_test(server) as target,
        ):
            if self.name == "loramux":
                await register_adapters(server.url, self.setup.adapters)
            # Results mean nothing if the server does not even serve a sound adapter.
            await target.adapter_api.remove((await add_sound_adapter(target)).name)
            before = await target.answers()
            for name, case in waiting:
                self.progress.begin(f"{self.name}: {name}")
                row = await self._run_case(target, name, case, before)
                rows.append(row)
                if row.affected:
                    return

    @asynccontextmanager
    async def _server_under_test(self, server: RunningServer) -> AsyncIterator[ServerUnderTest]:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(server.url, timeout=timeout) as session,
            ChatClient(server.url, timeout=REQUEST_TIMEOUT_S) as client,
        ):
            copies = self.scratch / "data" if self.name == "loramux" else None
            folder = self.scratch / "adapters"
            yield ServerUnderTest(
                self.name, ADAPTER_APIS[self.name](session), client, self.setup.base, folder, copies, self.numbers
            )

    async def _run_case(
        self, target: ServerUnderTest, name: str, case: RobustnessCase, before: Sequence[str | None]
    ) -> CaseRow:
        try:
            outcome, failures = await case(target), 0
        except BurstFailedError as error:  # a sound adapter that the case needs was not served
            outcome, failures = CaseOutcome(False, str(error)), 1
        after = await target.answers()
        affected = failures + sum(old != new for old, new in zip(before, after, strict=True))
        message = outcome.message.replace(str(self.scratch), "").replace(target.client.url, "")
        return CaseRow(self.name, name, outcome.bad_served, affected, message[:MAX_MESSAGE_LENGTH])


async def _add_bad_adapter(corrupt: Callable[[CandidateAdapter], None], target: ServerUnderTest) -> CaseOutcome:
    candidate = target.new_candidate()
    corrupt(candidate)
    response = await target.adapter_api.add(candidate.name, candidate.path)
    replies = (
        await target.overwrite_kv_cache(candidate.name) if response.accepted else [await target.ask(candidate.name)]
    )
    await target.adapter_api.remove(candidate.name)
    served = response.accepted and any(reply.ok for reply in replies)
    return CaseOutcome(served, format_replies(replies) if response.accepted else response.message)


def _metrics(name: str, rows: Sequence[CaseRow]) -> list[Metric]:
    mine = [row for row in rows if row.server == name]
    goal = 0.0 if name == "loramux" else None
    counts = {
        f"bad adapters served, of {len(mine)}": sum(row.bad_served for row in mine),
        f"other requests affected, of {OTHER_REQUESTS * len(mine)}": sum(row.affected for row in mine),
    }
    return [
        Metric(f"{name}: {counted}", spread([float(count)]), "count", at_most=goal) for counted, count in counts.items()
    ]


def _case_table(rows: Sequence[CaseRow]) -> list[str]:
    """Return the lines of a table with each case's result on each server."""
    servers = dict.fromkeys(row.server for row in rows)
    columns = ["case", *(f"{name}: {column}" for name in servers for column in ("served", "affected", "response"))]
    lines: dict[str, list[str]] = {}
    for row in rows:  # those of the first server come first
        response = " ".join(row.response.replace("|", "/").split())
        lines.setdefault(row.case, []).extend(
            ["**yes**" if row.bad_served else "no", str(row.affected or ""), response]
        )
    return markdown_table(columns, [[case, *cells] for case, cells in lines.items()])
