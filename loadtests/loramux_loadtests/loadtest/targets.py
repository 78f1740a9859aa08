"""The servers that a scenario runs against: a running one, or loramux or stock vLLM started for it."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from loramux_loadtests.examples import EXAMPLES, example_adapters
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT, demo_base, without_proof
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import TargetServer
from loramux_loadtests.servers import ServerSetup, loramux_spec, register_adapters, running, stock_spec
from loramux_loadtests.synthetic_adapters import write_adapter, write_adapters

LORAMUX, STOCK = "loramux", "stock"
REGISTER_CONCURRENCY = 8


def check_server(server: str) -> None:
    """Check the name of a server.

    Raises:
        LoadTestError: it is neither a known name nor a URL.
    """
    if server not in (LORAMUX, STOCK) and not server.startswith(("http://", "https://")):
        raise LoadTestError(
            f"unknown server '{server}'; expected {LORAMUX}, {STOCK} or the http(s) URL of a running server"
        )


@asynccontextmanager
async def target_server(
    server: str, scenario: Scenario, api_key: str | None, base: str | None, progress: ProgressLine
) -> AsyncIterator[TargetServer]:
    """Provide the server with this name or URL; one that is started here is stopped at the end.

    Raises:
        LoadTestError: there is no such server.
        ServerFailedError: the server does not start.
    """
    check_server(server)
    if server not in (LORAMUX, STOCK):
        yield TargetServer(server, server, api_key, base)
        return
    with tempfile.TemporaryDirectory(prefix="loramux-load-") as folder:
        base_folder = await demo_base(progress.begin)
        progress.begin(f"{server}: writing adapters")
        setup = _server_setup(scenario, base_folder, Path(folder))
        async with started_server(server, setup, Path(folder), progress) as target:
            yield target


@asynccontextmanager
async def started_server(
    server: str, setup: ServerSetup, scratch: Path, progress: ProgressLine
) -> AsyncIterator[TargetServer]:
    """Start LORAMUX or STOCK with its adapters, and write its log into the folder `scratch`.

    Raises:
        ServerFailedError: the server does not start.
    """
    spec = loramux_spec(setup, scratch / "data") if server == LORAMUX else stock_spec(setup)
    progress.begin(f"{server}: starting")
    async with running(spec, scratch / f"{server}.log") as process:
        if server == LORAMUX:
            progress.begin(f"{server}: registering {len(setup.adapters)} adapters")
            await register_adapters(process.url, setup.adapters, REGISTER_CONCURRENCY)
        yield TargetServer(server, process.url, base=setup.base.name)


def _server_setup(scenario: Scenario, base: Path, scratch: Path) -> ServerSetup:
    options = scenario.server
    adapters = dict(_required_examples()) if options.examples else {}
    adapters |= _synthetic_adapters(scenario, base, scratch / "adapters")
    setup = ServerSetup(base, adapters, ENGINE | dict(options.engine), ENVIRONMENT)
    return without_proof(setup, adapters) if scenario.mix.adapters else setup


def _required_examples() -> Mapping[str, Path]:
    found = example_adapters()
    if not found:
        raise LoadTestError(f"the example adapters are not in {EXAMPLES}: install the package loramux again")
    return found


def _synthetic_adapters(scenario: Scenario, base: Path, folder: Path) -> dict[str, Path]:
    count, options = scenario.mix.adapters, scenario.server
    if not options.small:
        return write_adapters(folder, base, count, rank=options.rank)
    return {f"a{n}": write_adapter(folder / f"a{n}", base, seed=n, rank=options.rank, layers=[0]) for n in range(count)}
