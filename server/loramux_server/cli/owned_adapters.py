"""The commands of `loramux adapter` that take an adapter away from the server: its files are the user's."""

from pathlib import Path
from typing import Annotated

import typer

from loramux_server.cli.adapter_names import NameOrVersion
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import fail, print_result, stdout
from loramux_server.cli.merge import merge
from loramux_server.cli.push import push
from loramux_server.cli.version_download import download_version, find_version


def download(
    name: NameOrVersion,
    folder: Annotated[Path, typer.Argument(help="New folder for the adapter's files.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Download an adapter as a folder that PEFT, vLLM and llama.cpp's converter read.

    The files are checked by the version's digest. An interrupted download goes on when the command is run again; the
    folder is complete or not there.

    Example: loramux adapter download tone my-adapters/tone
    """
    client = ApiClient(url, api_key)
    adapter, digest = find_version(client, name)
    try:
        download_version(client, adapter, digest, folder)
    except OSError as error:
        fail(f"can't write {error.filename}: {error.strerror}")
    result = {"version": f"{adapter}@{digest}", "folder": str(folder)}
    print_result(result, lambda _: stdout.print(f"{folder}: {adapter}@{digest}", markup=False), as_json=as_json)


COMMANDS = (download, merge, push)
