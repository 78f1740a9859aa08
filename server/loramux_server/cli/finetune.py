"""`loramux finetune`: fine-tuning jobs of a running server."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from loramux_adapters.finetuning.datasets.kinds import detect_kind
from loramux_server.cli import job_tables as tables
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import fail, print_result, stderr, step_progress

commands = typer.Typer(
    name="finetune", help="Train adapters with fine-tuning jobs on a running server.", no_args_is_help=True
)

Data = Annotated[
    Path,
    typer.Argument(
        exists=True,
        dir_okay=False,
        help="Training file: OpenAI chat conversations, or preference pairs for DPO, one per line (JSONL).",
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Held-out file of the same format, for validation only."),
]
Job = Annotated[str, typer.Argument(help="Job id, ftjob-...")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training file.", show_default="auto")]
Batch = Annotated[int | None, typer.Option(min=1, help="Examples per step.", show_default="auto")]
Rate = Annotated[float | None, typer.Option(help="Multiplier of the default learning rate.", show_default="auto")]

Model = Annotated[str | None, typer.Option(help="Adapter to go on from, or its NAME@DIGEST.", show_default="the base")]
Beta = Annotated[float | None, typer.Option(help="Of DPO: how near to the reference it stays.", show_default="auto")]
Patience = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Passes over the validation file, ten in a training, without a lower loss until it stops; 0: never.",
        show_default="training.early_stopping_patience",
    ),
]

_JOBS = "/v1/fine_tuning/jobs"
_FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
_POLL_SECONDS = 1.0


@commands.command()
def create(
    data: Data,
    *,
    validation: Validation = None,
    model: Model = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's name.")] = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    learning_rate_multiplier: Rate = None,
    beta: Beta = None,
    patience: Patience = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; the same seed and data give the same adapter.")] = None,
    alias: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Another name for the adapter, once its job succeeds.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the job has finished.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Upload a training file and create a job that trains an adapter on it: by DPO, if it has preference pairs.

    The adapter is served as soon as its job succeeds. Interrupting --wait does not stop the job.

    Examples:

    - loramux finetune create train.jsonl --suffix tone --wait

    - loramux finetune create train.jsonl --validation held-out.jsonl --epochs 2

    - loramux finetune create train.jsonl --as support

    - loramux finetune create more.jsonl --model support --suffix support-2
    """
    client = ApiClient(url, api_key)
    options = _options(data, epochs, batch_size, learning_rate_multiplier, beta, patience)
    files = client.upload_file(data), client.upload_file(validation) if validation else None
    body = _job_body(client, model, *files, options)
    job = client.call("POST", _JOBS, body | {"suffix": suffix, "seed": seed, "alias": alias})
    if wait:
        stderr.print(f"{job['id']}: Ctrl-C leaves it running; follow it again with `loramux finetune wait {job['id']}`")
        job = _follow(client, job)
    print_result(job, lambda job: tables.job(job, url), as_json=as_json)
    if job["status"] in _FINAL_STATUSES - {"succeeded"}:
        raise typer.Exit(1)


@commands.command()
def estimate(
    data: Data,
    *,
    validation: Validation = None,
    model: Model = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    learning_rate_multiplier: Rate = None,
    beta: Beta = None,
    patience: Patience = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print what a file contains, the hyperparameters a job would use, its duration and cost; train nothing.

    Example: loramux finetune estimate train.jsonl --validation held-out.jsonl
    """
    client = ApiClient(url, api_key)
    options = _options(data, epochs, batch_size, learning_rate_multiplier, beta, patience)
    with _uploaded(client, data) as training_file, _uploaded(client, validation) as validation_file:
        body = _job_body(client, model, training_file, validation_file, options)
        plan = client.call("POST", "/admin/fine_tuning/estimate", body)
    print_result(plan, tables.estimate, as_json=as_json)


@contextmanager
def _uploaded(client: ApiClient, path: Path | None) -> Iterator[str | None]:
    """Upload a file if there is one, and delete it from the server when the context ends."""
    if path is None:
        yield None
        return
    file = client.upload_file(path)
    try:
        yield file
    finally:
        client.call("DELETE", f"/v1/files/{file}")


def _options(
    data: Path, epochs: int | None, batch_size: int | None, rate: float | None, beta: float | None, patience: int | None
) -> dict[str, Any]:
    """Return the method, by the kind of the training file, and the other options of a job's body."""
    method = "dpo" if detect_kind(data) == "preference" else "supervised"
    if beta is not None and method != "dpo":
        fail(f"--beta is an option of DPO, and {data.name} has no preference pairs: leave it out", 2)
    hyperparameters = {"n_epochs": epochs, "batch_size": batch_size, "learning_rate_multiplier": rate, "beta": beta}
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    lora = {} if patience is None else {"lora": {"early_stopping_patience": patience}}
    return {"method": {"type": method, method: {"hyperparameters": given}}} | lora


def _job_body(
    client: ApiClient,
    model: str | None,
    training_file: str | None,
    validation_file: str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the request body of a job on the files."""
    files = {"training_file": training_file, "validation_file": validation_file}
    return {"model": model or base_model(client)} | files | options


@commands.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Limit to the newest N.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    print_result(ApiClient(url, api_key).call("GET", _JOBS, query={"limit": limit}), tables.jobs, as_json=as_json)


@commands.command()
def show(job: Job, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a job: its progress, hyperparameters and results."""
    print_result(
        ApiClient(url, api_key).call("GET", f"{_JOBS}/{job}"), lambda job: tables.job(job, url), as_json=as_json
    )


@commands.command()
def wait(job: Job, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a job's progress until it has finished; exit code 1 if it did not succeed."""
    client = ApiClient(url, api_key)
    finished = _follow(client, client.call("GET", f"{_JOBS}/{job}"))
    print_result(finished, lambda job: tables.job(job, url), as_json=as_json)
    if finished["status"] != "succeeded":
        raise typer.Exit(1)


@commands.command()
def events(
    job: Job,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Limit to the newest N.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's events, oldest first."""
    page = ApiClient(url, api_key).call("GET", f"{_JOBS}/{job}/events", query={"limit": limit})
    print_result(page, tables.events, as_json=as_json)


def _add_state_command(verb: str, help_text: str) -> None:
    def command(job: Job, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
        changed = ApiClient(url, api_key).call("POST", f"{_JOBS}/{job}/{verb}")
        print_result(changed, lambda job: tables.job(job, url), as_json=as_json)

    commands.command(verb, help=help_text)(command)


_add_state_command("cancel", "Cancel a job for good; its checkpoints stay.")
_add_state_command("pause", "Pause a job after its current step; other jobs may run first.")
_add_state_command("resume", "Resume a paused job where it stopped.")


def base_model(client: ApiClient) -> str:
    """Return the name of the server's base model, which jobs fine-tune."""
    for model in client.call("GET", "/v1/models")["data"]:
        if model["parent"] is None:
            return str(model["id"])
    return fail("the server lists no base model")


def _follow(client: ApiClient, job: Any) -> Any:
    """Show a job's progress until it has finished or was paused, and return it."""
    with step_progress() as bar:
        task = bar.add_task(job["status"], total=None, note="")
        while job["status"] not in _FINAL_STATUSES | {"paused"}:
            time.sleep(_POLL_SECONDS)
            job = client.call("GET", f"{_JOBS}/{job['id']}")
            details = job["loramux"]
            bar.update(
                task,
                description=tables.status(job),
                completed=details["step"],
                total=details["steps"] or None,
                note=tables.queue_place(details) or tables.pace(details),
            )
    return job
