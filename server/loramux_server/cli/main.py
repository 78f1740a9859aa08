"""The `loramux` command: one module a subcommand, registered here."""

import typer

from loramux_server.cli import adapter, finetune, loadtest
from loramux_server.cli.calibrate import calibrate
from loramux_server.cli.compare import compare
from loramux_server.cli.doctor import doctor
from loramux_server.cli.serve import serve
from loramux_server.cli.train import train
from loramux_server.cli.usage import usage

main = typer.Typer(
    name="loramux",
    help="One base model and any number of LoRA fine-tunes of it, from one vLLM engine, behind one endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (serve, doctor, usage, calibrate, train, compare):
    main.command()(command)
main.add_typer(adapter.commands)
main.add_typer(finetune.commands)
main.add_typer(loadtest.commands)
