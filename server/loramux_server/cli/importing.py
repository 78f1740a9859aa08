"""`loramux import`: bring fine-tuning jobs, data and model names of another provider to a running server."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from loramux_adapters.durations import format_duration
from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, Url
from loramux_server.cli.console import column_table, fail, stderr, stdout
from loramux_server.settings.provider_keys import provider_key, provider_url

if TYPE_CHECKING:
    from loramux_server.importing.plan import PlannedJob
    from loramux_server.importing.report import ModelResult

_FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where a narrow one would cut names."""


class Provider(StrEnum):
    """A provider of fine-tuning; see loramux_server.importing.providers."""

    OPENAI = "openai"
    AZURE = "azure"
    TOGETHER = "together"
    MISTRAL = "mistral"


class Epochs(StrEnum):
    """How many epochs the new jobs have."""

    SAME = "same"
    AUTO = "auto"


def import_(
    provider: Annotated[Provider | None, typer.Argument(help="Provider to import from.", show_default=False)] = None,
    *,
    from_folder: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Import from the files and the manifest.json of a folder."),
    ] = None,
    folder: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for jobs, files, answers and reports; kept for the next run.")
    ] = Path("loramux-import"),
    base_url: Annotated[
        str | None, typer.Option(help="URL of the provider's API.", show_default="the provider's own")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do what the plan says; without it, it is only shown.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Job id, model name or suffix to import; may be repeated.", metavar="NAME")
    ] = None,
    epochs: Annotated[
        Epochs, typer.Option(help="Epochs: the same as the old jobs, or chosen for the base.")
    ] = Epochs.SAME,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of examples to hold out where there is no validation file.")
    ] = 0.1,
    items: Annotated[int, typer.Option(min=1, max=10_000, help="Ask each old model at most N held-out items.")] = 100,
    deployment: Annotated[
        list[str] | None,
        typer.Option(
            help="Deployment that answers for an old model, which Azure needs to compare; may be repeated.",
            metavar="MODEL=DEPLOYMENT",
        ),
    ] = None,
    aliases: Annotated[bool, typer.Option(help="Let the old models' names stand for their successors.")] = True,
    compare: Annotated[bool, typer.Option(help="Compare each old model with its successor.")] = True,
    retry: Annotated[
        bool, typer.Option("--retry", help="Train jobs again that failed or were cancelled here.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the result as JSON.")] = False,
) -> None:
    """Move fine-tunes here: list the provider's jobs, download their files, train them on this server's base, compare.

    The provider's key comes from the environment only: OPENAI_API_KEY, AZURE_OPENAI_API_KEY, TOGETHER_API_KEY or
    MISTRAL_API_KEY. It is not stored. Without --yes, files are downloaded and checked on the server, and the plan is
    printed: examples, tokens, recipe, time, and what does not carry over. With --yes, the old models' answers to
    held-out examples are recorded (which costs as much as any request to them), every job is trained, the old names
    become aliases of the new models, and each old model is compared with its successor.

    Interrupted at any moment, the same command goes on; nothing is trained twice. When the provider is gone, it goes on
    with what the folder has. Exit code 1 if a model could not be imported, 2 if the import could not start.

    Examples:

    - loramux import openai

    - loramux import openai --yes

    - loramux import --from-folder exported --yes
    """
    # The client and the statistics take seconds to import, which no other command should wait for.
    from loramux_server.importing.errors import ImportingError
    from loramux_server.importing.folder import ImportFolder
    from loramux_server.importing.plan import ImportOptions
    from loramux_server.importing.providers import PROVIDERS
    from loramux_server.importing.session import ImportSession
    from loramux_server.importing.target import TargetServer

    if (provider is None) == (from_folder is None):
        fail("name either a provider (openai, azure, together, mistral) or --from-folder", 2)
    chosen = PROVIDERS[provider] if provider else None
    base_url = base_url or provider_url(chosen.url_variable if chosen else None)
    deployments = _parse_deployments(deployment or ())
    options = ImportOptions(epochs.value, hold_out, items, only or (), deployments, aliases, compare, retry)
    place = ImportFolder(from_folder or folder)
    try:
        with place.lock(), closing(TargetServer(url, api_key)) as target:
            session = ImportSession(place, target, options, _Output(), chosen, base_url, _key(chosen, place))
            session.collect()
            plan = session.plan()
            if not yes or not as_json:
                _print_plan(plan, as_json=as_json)
            if yes:
                results = session.run(plan)
                _print_results(results, place.root, as_json=as_json)
    except ImportingError as error:
        fail(error, 2)
    except KeyboardInterrupt:
        fail("interrupted: run the same command again to go on", 130)
    if not yes:
        stderr.print("\nrun the same command with --yes to do this")
    failed = any(planned.is_failure for planned in plan) if not yes else any(one.is_failure for one in results)
    raise typer.Exit(1 if failed else 0)


def _parse_deployments(given: Sequence[str]) -> Mapping[str, str]:
    """The deployments by their models' names, from MODEL=DEPLOYMENT."""
    parts = [text.rpartition("=") for text in given]
    if wrong := [text for text, (model, _, name) in zip(given, parts, strict=True) if not (model and name)]:
        fail(f"--deployment {wrong[0]!r}: expected MODEL=DEPLOYMENT", 2)
    return {model: name for model, _, name in parts}


def _key(provider: Any, folder: Any) -> Any:
    """The provider's key; with --from-folder that of the provider in the manifest, to ask the old models."""
    from loramux_server.importing.providers import PROVIDERS

    found = provider or PROVIDERS.get(folder.read().provider)
    return provider_key(found.key_variable) if found else None


class _Output:
    """Prints what happens to standard error."""

    def __init__(self) -> None:
        self._last: Mapping[str, str] = {}

    def say(self, sentence: str) -> None:
        stderr.print(sentence, markup=False, soft_wrap=True)

    def jobs(self, jobs: Mapping[str, Any]) -> None:
        states = {key: str(job["status"]) for key, job in jobs.items()}
        for key, state in states.items():
            if self._last.get(key) != state:
                self.say(f"{key.partition(':')[2]}: {state}")
        self._last = states


def _print_plan(plan: "Sequence[PlannedJob]", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"jobs": [_plan_json(planned) for planned in plan]}))
        return
    table = column_table("old model", "examples", "tokens", "recipe", "time", "does not carry over")
    total = 0.0
    for planned in plan:
        facts = _plan_json(planned)
        seconds = facts["seconds"]
        total += seconds or 0.0
        recipe = f"{facts['method']}, {facts['epochs']} epochs" if planned.body else "–"
        numbers = [f"{facts[name]:,}" if facts[name] is not None else "–" for name in ("examples", "tokens")]
        notes = [facts["problem"]] if facts["problem"] else facts["notes"]
        time = format_duration(seconds) if seconds is not None else "–"
        table.add_row(*map(escape, (planned.source.name, *numbers, recipe, time, "; ".join(notes))))
    _console().print(table)
    stdout.print(f"\n{sum(bool(one.body) for one in plan)} of {len(plan)} jobs, {format_duration(total)} in total")


def _plan_json(planned: "PlannedJob") -> dict[str, Any]:
    plan: Any = planned.estimate
    report, recipe = plan.get("report") or {}, plan.get("recipe") or {}
    phases = (plan.get("estimate") or {}).get("phases") or {}
    return {
        "id": planned.source.id,
        "old": planned.source.name,
        "method": planned.source.method_type,
        "examples": report.get("examples"),
        "tokens": report.get("tokens"),
        "epochs": recipe.get("epochs"),
        "seconds": sum(phases.values()) if phases else None,
        "problem": planned.problem,
        "notes": list(planned.notes),
        "warnings": list(report.get("warnings") or ()),
    }


def _print_results(results: "Sequence[ModelResult]", folder: Path, *, as_json: bool) -> None:
    from loramux_server.importing.report import COLUMNS

    if as_json:
        typer.echo(json.dumps({"models": [result.model_dump() for result in results]}))
    else:
        table = column_table(*COLUMNS)
        for result in results:
            table.add_row(*map(escape, result.cells))
        _console().print(table)
    stderr.print(f"\nreport: {folder / 'report.html'}", markup=False, soft_wrap=True)


def _console() -> Console:
    """The console for tables: in a file or a pipe, wide enough for names."""
    return stdout if stdout.is_terminal else Console(highlight=False, width=_FILE_WIDTH)
