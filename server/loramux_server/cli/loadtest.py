"""`loramux loadtest`: open-loop load on a loramux server or any other OpenAI-compatible server."""

from pathlib import Path
from typing import Annotated

import typer

from loramux_server.cli.api_client import DEFAULT_URL, ApiKey

commands = typer.Typer(
    name="loadtest",
    help="Measure a server under open-loop load: requests are sent on schedule, whether or not it keeps up.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

REPORTS = Path("loadtest-reports")

Output = Annotated[Path, typer.Option(file_okay=False, help="Folder for the report and the rows of requests.")]
Prices = Annotated[
    Path | None, typer.Option(help="YAML file with `prices` as in loramux.yaml; adds costs to the report.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
ServerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        "--url",
        envvar="LORAMUX_CLI_URL",
        show_default=DEFAULT_URL,
        help="URL of a running server, or `loramux` or `stock` (vLLM) to start one; may be repeated.",
    ),
]
BaseName = Annotated[str | None, typer.Option(help="Name of the server's base model, if /v1/models does not list it.")]
ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="Name (`loramux loadtest scenarios` lists them) or YAML file.")
]
Seed = Annotated[
    int, typer.Option(min=0, help="Random seed; the same seed gives the same requests on the same schedule.")
]
Rate = Annotated[float | None, typer.Option(help="Requests per second, instead of the scenario's.")]
Duration = Annotated[float | None, typer.Option(help="Seconds of load.")]
Requests = Annotated[int | None, typer.Option(help="Stop after N requests.")]
GoalText = Annotated[
    str | None, typer.Option(help='Limits to meet, in seconds, such as "ttft_p95<0.5,tpot_p95<0.1,errors<0.01".')
]


@commands.command()
def run(
    scenario: ScenarioName,
    server: ServerNames = None,
    rate: Rate = None,
    duration: Duration = None,
    requests: Requests = None,
    window: Annotated[float | None, typer.Option(help="Seconds per window, for detecting drift.")] = None,
    goal: GoalText = None,
    seed: Seed = 0,
    api_key: ApiKey = None,
    base: BaseName = None,
    prices: Prices = None,
    output: Output = REPORTS,
    *,
    as_json: AsJson = False,
) -> None:
    """Run a scenario and write a report as HTML, Markdown and JSON, and one row per request as JSONL.

    Each request is sent at its scheduled time, even if earlier ones are unanswered, so a server that can't keep up
    shows growing latencies. Each row is written when its request ends, so Ctrl-C or a kill keeps all rows so far;
    `loramux loadtest report` creates a report from the rows.

    Exit code: 0; 1 if a goal was missed, 2 if the test could not run, 130 if it was interrupted.

    Examples:

    - loramux loadtest run mixed --server http://127.0.0.1:8000

    - loramux loadtest run mixed --server loramux --server stock

    - loramux loadtest run soak --duration 600 --goal "ttft_p95<2,errors<0.01"
    """
    from loramux_loadtests.loadtest import command

    changes = {"rate": rate, "duration": duration, "requests": requests, "window": window, "goal": goal}
    options = {"servers": server or [DEFAULT_URL], "seed": seed, "api_key": api_key, "base": base}
    raise typer.Exit(command.run(scenario, changes, prices, output=output, as_json=as_json, **options))


@commands.command()
def sweep(
    scenario: ScenarioName,
    goal: GoalText = None,
    server: ServerNames = None,
    rate: Rate = None,
    duration: Duration = 30.0,
    requests: Requests = None,
    precision: Annotated[
        float, typer.Option(min=0.01, max=1, help="Relative precision of the rate: 0.1 for 10 %.")
    ] = 0.1,
    max_duration: Annotated[
        float, typer.Option(min=1, help="Longest time of one rate, in seconds: it runs until it can be judged.")
    ] = 300.0,
    confirm: Annotated[
        float, typer.Option(min=0, help="Seconds for which the rate that was found is run again; 0 skips this.")
    ] = 120.0,
    seed: Seed = 0,
    api_key: ApiKey = None,
    base: BaseName = None,
    prices: Prices = None,
    output: Output = REPORTS,
    *,
    as_json: AsJson = False,
) -> None:
    """Find the highest rate at which a server meets a goal and keeps up: double the rate until it fails, then bisect.

    Starts at --rate, or the scenario's rate. Each rate runs with new prompts for at least DURATION seconds, and until
    it can be judged: several times as long as its slow requests take, with enough requests for the goal's percentiles.
    A server keeps up if it answers at least 95 % of the requests in the meantime and requests do not pile up. The rate
    that is found is run again for two minutes; if it does not hold, lower ones are. All results are kept.

    Example: loramux loadtest sweep mixed --goal "ttft_p95<2,tpot_p95<0.2,errors<0.01" --server loramux --server stock
    """
    from loramux_loadtests.loadtest import command
    from loramux_loadtests.loadtest.sweep_session import SweepOptions

    changes = {"rate": rate, "duration": duration, "requests": requests, "goal": goal}
    options = {"servers": server or [DEFAULT_URL], "seed": seed, "api_key": api_key, "base": base}
    how = SweepOptions(precision, max_duration, confirm)
    raise typer.Exit(command.sweep(scenario, changes, prices, how, output=output, as_json=as_json, **options))


@commands.command()
def report(
    rows: Annotated[list[Path], typer.Argument(help="Files of rows (.jsonl), one per server.")],
    prices: Prices = None,
    output: Output = REPORTS,
    *,
    as_json: AsJson = False,
) -> None:
    """Recreate the report from rows, for example those of a load test that was killed.

    The exit code is that of the load test; 2 if it was killed.
    """
    from loramux_loadtests.loadtest import command

    raise typer.Exit(command.report(rows, prices, output, as_json=as_json))


@commands.command()
def scenarios() -> None:
    """List the scenarios."""
    from loramux_loadtests.loadtest import command

    raise typer.Exit(command.list_scenarios())
