"""`loramux adapter push`: an adapter on the Hugging Face Hub, with a model card and without any data."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.status import Status

from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_server.cli.adapter_names import NameOrVersion, version_path
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import fail, print_result, stderr, stdout
from loramux_server.cli.version_download import download_version, find_version


def push(
    name: NameOrVersion,
    target: Annotated[str, typer.Argument(metavar="hf:ORG/NAME", help="Repository of the Hub, created if need be.")],
    *,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, or push to one that is.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Push an adapter to the Hugging Face Hub: its files, and a card with data size, recipe and what was measured.

    A new repository is private. No training data, prompts or answers are sent. HF_TOKEN must be allowed to write.

    Example: loramux adapter push tone hf:acme/tone
    """
    # It takes a second to import.
    from loramux_adapters.publishing import hub_repository as hub
    from loramux_adapters.publishing.model_card import model_card

    client = ApiClient(url, api_key)
    try:
        repository = hub.parse_repository(target)
        adapter, digest = find_version(client, name)
        version = client.call("GET", version_path(adapter, digest))
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "adapter"
            download_version(client, adapter, digest, folder)
            card = model_card(version, _job(client, version["source"]), _base(folder), repository)
            (folder / hub.CARD_FILE).write_text(card, encoding="utf-8")
            with Status(f"pushing {adapter}@{digest} to {repository}", console=stderr):
                commit = hub.push(folder, repository, f"Add {adapter}@{digest}", public=public)
    except SourceUnavailable as error:
        fail(error.message)
    except OSError as error:
        fail(f"can't write {error.filename}: {error.strerror}")
    result = {"version": f"{adapter}@{digest}", "repository": repository, "commit": commit}
    print_result(result, lambda _: stdout.print(f"{adapter}@{digest}: {commit}", markup=False), as_json=as_json)


def _job(client: ApiClient, source: dict[str, str]) -> Any:
    """Return the job that trained a version, None if none did or it is gone."""
    if source.get("type") != "job" or "job" not in source:
        return None
    return client.find(f"/v1/fine_tuning/jobs/{quote(source['job'], safe='')}")


def _base(folder: Path) -> str:
    try:
        declared = json.loads((folder / CONFIG_FILE).read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        declared = None
    text = str(declared or "its base")
    return text if len(Path(text).parts) <= 2 and not Path(text).is_absolute() else Path(text).name
