"""`loramux adapter convert`: pickled weights to safetensors, on this machine and without a server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.status import Status

from loramux_adapters.errors import InvalidAdapter
from loramux_server.cli.console import fail, stderr


def convert(
    source: Annotated[
        Path, typer.Argument(help="Folder with adapter_config.json and adapter_model.bin, or the .bin or .pt file.")
    ],
    target: Annotated[Path, typer.Argument(help="New folder for the converted adapter.")],
) -> None:
    """Convert an adapter whose weights are pickled (.bin, .pt) to safetensors, which the server accepts.

    A pickle can contain a program. It is read in PyTorch's weights-only mode, by a process that can open no other file
    or connection and has limits of time and memory. No server is needed.

    Example: loramux adapter convert old/tone new/tone
    """
    # It takes longer to import than the other commands run.
    from loramux_adapters.conversion.converter import convert as convert_adapter

    try:
        with Status(f"converting {source}", console=stderr):
            count = convert_adapter(source, target)
    except (InvalidAdapter, OSError) as error:
        fail(str(error))
    typer.echo(f"{target}: {count} tensors. Add it with: loramux adapter add NAME {target}")
