"""The servers that a scenario runs against: one that is up, or loramux or stock vLLM started for it."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from loramux_loadtests.examples import EXAMPLES, example_adapters
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT, demo_base, without_proof
from loramux_loadtests.loadtest.progress import Watch
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import Target
from loramux_loadtests.servers import Setup, loramux, register, running, stock
from loramux_loadtests.synthetic_adapters import write_adapter, write_adapters

LORAMUX, STOCK = "loramux", "stock"
AT_ONCE = 8


def check_server(word: str) -> None:
    """LoadTestError if `word` names no server."""
    if word not in (LORAMUX, STOCK) and not word.startswith(("http://", "https://")):
        raise LoadTestError(f"'{word}' is no server: say {LORAMUX}, {STOCK}, or the URL of one that runs")


@asynccontextmanager
async def serving(
    word: str, scenario: Scenario, api_key: str | None, base: str | None, watch: Watch
) -> AsyncIterator[Target]:
    """The server of that name, from ready to gone if it is started here. ServerFailedError if it does not start."""
    check_server(word)
    if word not in (LORAMUX, STOCK):
        yield Target(word, word, api_key, base)
        return
    with tempfile.TemporaryDirectory(prefix="loramux-load-") as folder:
        base_folder = await demo_base(watch.begin)
        watch.begin(f"{word}: writing adapters")
        setup = _setup(scenario, base_folder, Path(folder))
        async with started(word, setup, Path(folder), watch) as target:
            yield target


@asynccontextmanager
async def started(word: str, setup: Setup, scratch: Path, watch: Watch) -> AsyncIterator[Target]:
    """LORAMUX or STOCK, started, with its adapters, its log in `scratch`. ServerFailedError if it does not start."""
    spec = loramux(setup, scratch / "data") if word == LORAMUX else stock(setup)
    watch.begin(f"{word}: starting")
    async with running(spec, scratch / f"{word}.log") as server:
        if word == LORAMUX:
            watch.begin(f"{word}: registering {len(setup.adapters)} adapters")
            await register(server.url, setup.adapters, AT_ONCE)
        yield Target(word, server.url, base=setup.base.name)


def _setup(scenario: Scenario, base: Path, scratch: Path) -> Setup:
    wanted = scenario.server
    adapters = dict(_examples()) if wanted.examples else {}
    adapters |= _made_up(scenario, base, scratch / "adapters")
    setup = Setup(base, adapters, ENGINE | dict(wanted.engine), ENVIRONMENT)
    return without_proof(setup, adapters) if scenario.mix.adapters else setup


def _examples() -> Mapping[str, Path]:
    found = example_adapters()
    if not found:
        raise LoadTestError(f"the example adapters are not in {EXAMPLES}: install the package loramux again")
    return found


def _made_up(scenario: Scenario, base: Path, folder: Path) -> dict[str, Path]:
    count, wanted = scenario.mix.adapters, scenario.server
    if not wanted.small:
        return write_adapters(folder, base, count, rank=wanted.rank)
    return {f"a{n}": write_adapter(folder / f"a{n}", base, seed=n, rank=wanted.rank, layers=[0]) for n in range(count)}
