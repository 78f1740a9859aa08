"""`loramux data`: training data, on this machine and without a server."""

from pathlib import Path
from typing import Annotated

import typer

from loramux_adapters.finetuning.datasets.other_formats.converter import ConversionReport, convert_file
from loramux_adapters.finetuning.errors import InvalidDataset
from loramux_server.cli.console import fail, print_result, stderr

commands = typer.Typer(name="data", help="Prepare training data.", no_args_is_help=True)
METHODS = {"chat": "conversations, for supervised training", "preference": "preference pairs, for the method dpo"}


@commands.command()
def convert(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON or JSONL file in any known format.")],
    out: Annotated[Path, typer.Argument(help="New file for the examples in OpenAI's format (JSONL).")],
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out examples that can't be converted, and name them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Convert training data to OpenAI's format, which the server and `loramux train` read.

    Known formats: prompt and completion, Alpaca, ShareGPT (also with tools), Gemini, Cohere, Anthropic and Bedrock,
    tools of the Responses API, `function_call`, and `chosen` and `rejected`; as lines, as one list, or pretty-printed.
    Each example is checked as an upload checks it. Nothing is written if one can't be converted.

    Example: loramux data convert alpaca.json train.jsonl
    """
    try:
        report = convert_file(file, out, skip_invalid=skip_invalid)
    except InvalidDataset as error:
        fail(f"{error}\nNothing was written: correct the file, or leave such examples out with --skip-invalid")
    except OSError as error:
        fail(error, 2)
    print_result(report.model_dump(), lambda _: _show(report, out), as_json=as_json)


def _show(report: ConversionReport, out: Path) -> None:
    for name, count in report.formats.items():
        stderr.print(f"{count:,} examples: {name}", markup=False)
    for warning in report.warnings:
        stderr.print(f"warning: {warning}", markup=False)
    if report.left_out:
        stderr.print(f"{report.left_out:,} examples left out; the first of them:", style="red")
    for line, reason in report.problems:
        stderr.print(f"  line {line}: {reason}", markup=False)
    typer.echo(f"{out}: {report.written:,} {METHODS[report.kind]}")
