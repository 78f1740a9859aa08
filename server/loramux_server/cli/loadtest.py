"""`loramux loadtest`: open-loop load on this server or any other that speaks OpenAI's protocol."""

from pathlib import Path
from typing import Annotated

import typer

from loramux_server.cli.api_client import DEFAULT_URL, ApiKey

commands = typer.Typer(
    name="loadtest",
    help="How much load a server holds: requests come at their moments, whether or not it keeps up.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

RESULTS = Path("loadtests/results")

Output = Annotated[Path, typer.Option(file_okay=False, help="Folder for the report and the rows.")]
Prices = Annotated[Path | None, typer.Option(help="YAML: `prices` as in loramux.yaml. Adds what the load cost.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
ServerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        "--url",
        envvar="LORAMUX_CLI_URL",
        show_default=DEFAULT_URL,
        help="A running server's URL; `loramux` or `stock` (vLLM) to start one for this. Again for another one.",
    ),
]
BaseName = Annotated[str | None, typer.Option(help="What the server calls its base model, if /v1/models doesn't tell.")]
ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A name (`loramux loadtest scenarios` lists them) or a YAML file.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed, the same requests at the same moments.")]
Rate = Annotated[float | None, typer.Option(help="Requests a second, instead of the scenario's.")]
Duration = Annotated[float | None, typer.Option(help="Seconds of load: a soak, if there are many.")]
Requests = Annotated[int | None, typer.Option(help="End after so many requests.")]
GoalText = Annotated[str | None, typer.Option(help='Such as "ttft_p95<0.5,tpot_p95<0.1,errors<0.01", in seconds.')]


@commands.command()
def run(
    scenario: ScenarioName,
    server: ServerNames = None,
    rate: Rate = None,
    duration: Duration = None,
    requests: Requests = None,
    window: Annotated[float | None, typer.Option(help="Seconds of the pieces in which drift is looked for.")] = None,
    goal: GoalText = None,
    seed: Seed = 0,
    api_key: ApiKey = None,
    base: BaseName = None,
    prices: Prices = None,
    output: Output = RESULTS,
    *,
    as_json: AsJson = False,
) -> None:
    """Run a scenario, and write what came of it as a page, a table and JSON.

    Each request is sent at its scheduled moment, also if those before it have not been answered: a server that can't
    keep up shows it in its times. Every row is on disk as soon as its request has ended, so Ctrl-C or a kill keeps
    what there is; `loramux loadtest report` makes a report of it.

    Exit code: 0, 1 if a goal was missed, 2 if it could not be run, 130 if it was interrupted.

    Examples:

    - loramux loadtest run mixed --server http://127.0.0.1:8000

    - loramux loadtest run mixed --server loramux --server stock

    - loramux loadtest run soak --duration 600 --goal "ttft_p95<2,errors<0.01"
    """
    from loramux_loadtests.loadtest import command

    changes = {"rate": rate, "duration": duration, "requests": requests, "window": window, "goal": goal}
    asked = {"servers": server or [DEFAULT_URL], "seed": seed, "api_key": api_key, "base": base}
    raise typer.Exit(command.run(scenario, changes, prices, output=output, as_json=as_json, **asked))


@commands.command()
def sweep(
    scenario: ScenarioName,
    goal: GoalText = None,
    server: ServerNames = None,
    rate: Rate = None,
    duration: Duration = 30.0,
    requests: Requests = None,
    precision: Annotated[float, typer.Option(min=0.01, max=1, help="How exactly: 0.1 for a tenth.")] = 0.1,
    seed: Seed = 0,
    api_key: ApiKey = None,
    base: BaseName = None,
    prices: Prices = None,
    output: Output = RESULTS,
    *,
    as_json: AsJson = False,
) -> None:
    """Find the highest rate at which a server meets a goal: double the rate until it misses, then bisect.

    Begins with --rate, or the scenario's. Each rate has DURATION seconds of load, with prompts of its own, and its
    results are kept.

    Example: loramux loadtest sweep mixed --goal "ttft_p95<2,tpot_p95<0.2,errors<0.01" --server loramux --server stock
    """
    from loramux_loadtests.loadtest import command

    changes = {"rate": rate, "duration": duration, "requests": requests, "goal": goal}
    asked = {"servers": server or [DEFAULT_URL], "seed": seed, "api_key": api_key, "base": base}
    raise typer.Exit(command.sweep(scenario, changes, prices, precision, output=output, as_json=as_json, **asked))


@commands.command()
def report(
    rows: Annotated[list[Path], typer.Argument(help="Files of rows (.jsonl), one a server.")],
    prices: Prices = None,
    output: Output = RESULTS,
    *,
    as_json: AsJson = False,
) -> None:
    """Make the report anew from rows, such as a load test left that was killed.

    The exit code is that of the load; 2 if it was killed.
    """
    from loramux_loadtests.loadtest import command

    raise typer.Exit(command.report(rows, prices, output, as_json=as_json))


@commands.command()
def scenarios() -> None:
    """List the scenarios that there are."""
    from loramux_loadtests.loadtest import command

    raise typer.Exit(command.list_scenarios())
