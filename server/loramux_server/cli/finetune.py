"""`loramux finetune`: adapters made by a running server."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loramux_server.cli import job_tables as tables
from loramux_server.cli.adapter_names import shown
from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, AsJson, Server, Url, ended, words

commands = typer.Typer(
    name="finetune", help="Make adapters from examples, by a running server's jobs.", no_args_is_help=True
)

Data = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="OpenAI chat conversations, one a line.")]
Validation = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="A file of the same format that is not learned from.")
]
Job = Annotated[str, typer.Argument(help="The job's id, ftjob-...")]
Epochs = Annotated[int | None, typer.Option(min=1, help="How often each example is seen.", show_default="auto")]
Batch = Annotated[int | None, typer.Option(min=1, help="Examples a step.", show_default="auto")]
Rate = Annotated[float | None, typer.Option(help="Times the usual learning rate.", show_default="auto")]

_JOBS = "/v1/fine_tuning/jobs"
_ENDED = frozenset({"succeeded", "failed", "cancelled"})
_POLL_SECONDS = 1.0


@commands.command()
def create(
    data: Data,
    *,
    validation: Validation = None,
    suffix: Annotated[str | None, typer.Option(help="A part of the new model's name.")] = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    learning_rate_multiplier: Rate = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and data give the same adapter.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is until it has ended.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Send a file of examples up and let an adapter be trained on it.

    The adapter serves the moment its job ends. Interrupting --wait does not stop the job.

    Examples:

    - loramux finetune create train.jsonl --suffix tone --wait

    - loramux finetune create train.jsonl --validation held-out.jsonl --epochs 2
    """
    server = Server(url, api_key)
    files = server.upload(data), server.upload(validation) if validation else None
    body = _wanted(server, *files, epochs, batch_size, learning_rate_multiplier)
    job = server.call("POST", _JOBS, body | {"suffix": suffix, "seed": seed})
    if wait:
        words.print(f"{job['id']}: Ctrl-C leaves it running; `loramux finetune wait {job['id']}` comes back")
        job = _waited(server, job)
    shown(job, lambda job: tables.created(job, url), as_json=as_json)
    if job["status"] in _ENDED - {"succeeded"}:
        raise typer.Exit(1)


@commands.command()
def estimate(
    data: Data,
    *,
    validation: Validation = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    learning_rate_multiplier: Rate = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in a file, what would be chosen for it, and how long a job would take and cost; train nothing.

    Example: loramux finetune estimate train.jsonl --validation held-out.jsonl
    """
    server = Server(url, api_key)
    with _lent(server, data) as training_file, _lent(server, validation) as validation_file:
        body = _wanted(server, training_file, validation_file, epochs, batch_size, learning_rate_multiplier)
        found = server.call("POST", "/admin/fine_tuning/estimate", body)
    shown(found, tables.estimated, as_json=as_json)


@contextmanager
def _lent(server: Server, path: Path | None) -> Iterator[str | None]:
    """Have a file on the server, if there is one, for as long as the context lasts."""
    if path is None:
        yield None
        return
    file = server.upload(path)
    try:
        yield file
    finally:
        server.call("DELETE", f"/v1/files/{file}")


def _wanted(
    server: Server,
    training_file: str | None,
    validation_file: str | None,
    epochs: int | None,
    batch_size: int | None,
    rate: float | None,
) -> dict[str, Any]:
    """Return what a job on the files is asked for by."""
    hyperparameters = {"n_epochs": epochs, "batch_size": batch_size, "learning_rate_multiplier": rate}
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    return {
        "model": base_of(server),
        "training_file": training_file,
        "validation_file": validation_file,
        "method": {"type": "supervised", "supervised": {"hyperparameters": given}},
    }


@commands.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs, the newest first."""
    shown(Server(url, api_key).call("GET", _JOBS, query={"limit": limit}), tables.jobs, as_json=as_json)


@commands.command()
def show(job: Job, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a job: how far it is, what was chosen for it, what it made."""
    shown(Server(url, api_key).call("GET", f"{_JOBS}/{job}"), lambda job: tables.created(job, url), as_json=as_json)


@commands.command()
def wait(job: Job, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show how far a job is until it has ended; exit with 1 if it made no adapter."""
    server = Server(url, api_key)
    found = _waited(server, server.call("GET", f"{_JOBS}/{job}"))
    shown(found, lambda job: tables.created(job, url), as_json=as_json)
    if found["status"] != "succeeded":
        raise typer.Exit(1)


@commands.command()
def events(
    job: Job,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened in a job, the oldest first."""
    found = Server(url, api_key).call("GET", f"{_JOBS}/{job}/events", query={"limit": limit})
    shown(found, tables.events, as_json=as_json)


def _moving(verb: str, words_: str) -> None:
    def command(job: Job, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
        found = Server(url, api_key).call("POST", f"{_JOBS}/{job}/{verb}")
        shown(found, lambda job: tables.created(job, url), as_json=as_json)

    commands.command(verb, help=words_)(command)


_moving("cancel", "End a job for good; its checkpoints stay.")
_moving("pause", "Stop a job after the step it is at; others may go first.")
_moving("resume", "Let a job go on where it was paused.")


def base_of(server: Server) -> str:
    """Return the name of the model that is fine-tuned: the server's base."""
    for model in server.call("GET", "/v1/models")["data"]:
        if model["parent"] is None:
            return str(model["id"])
    raise ended("the server has no base model")


def _waited(server: Server, job: Any) -> Any:
    """Follow a job on a bar until it has ended or was paused; returns it as it is then."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(TextColumn("{task.description}"), *columns, console=words) as bar:
        task = bar.add_task(job["status"], total=None, note="")
        while job["status"] not in _ENDED | {"paused"}:
            time.sleep(_POLL_SECONDS)
            job = server.call("GET", f"{_JOBS}/{job['id']}")
            ours = job["loramux"]
            bar.update(
                task,
                description=job["status"],
                completed=ours["step"],
                total=ours["steps"] or None,
                note=tables.pace(ours),
            )
    return job
