"""`loramux adapter merge`: an adapter merged into its base, as a model that needs no adapters."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.status import Status

from loramux_adapters.errors import AdapterError
from loramux_adapters.finetuning.datasets.examples import iter_examples
from loramux_adapters.finetuning.datasets.reader import iter_conversations
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.merging.merger import merge as merge_adapter
from loramux_adapters.merging.request import Difference, Dtype, MergeReport, MergeRequest
from loramux_server.base_model import BaseError, ResolvedBase, resolve_base
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import column_table, fail, print_result, stderr, stdout
from loramux_server.cli.version_download import download_version, find_version
from loramux_server.settings import SettingsError, load_settings

QUESTIONS = (
    "What is the capital of France?",
    "Where is my order? It was due last Tuesday.",
    "Write a short reply to a customer who asks for a refund.",
    "Summarize: The meeting was moved from Monday to Thursday because two people were ill.",
    "Give three uses of a paper clip as JSON.",
    "Translate to German: The weather is fine today.",
    "Write a Python function that adds two numbers.",
    "How do I reset my password?",
)
"""What is asked if no file of prompts is given."""
MAX_PROMPTS = 50


def merge(
    source: Annotated[str, typer.Argument(help="NAME or NAME@DIGEST on the server; with --local, a folder.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the merged model.")],
    *,
    base: Annotated[
        str | None,
        typer.Option(help="Folder, Hub id or `demo`: the base of the adapter.", show_default="LORAMUX_BASE"),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="SOURCE is a folder on this machine: no server is needed.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the merged weights; `auto` is the base's.")] = "auto",
    prompts: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Chat file (JSONL) whose first prompts are asked, such as held-out data."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Tokens of each answer that are compared.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, or a GPU such as cuda:0.")] = "cpu",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base: a folder that vLLM, transformers and llama.cpp's converter read.

    The model is written, read again, and asked greedily: its answers must be the adapter's, except where rounding to
    DTYPE decides between two tokens. Otherwise no folder is left. The base stays as it is.

    Example: loramux adapter merge tone merged/tone --base Qwen/Qwen3-0.6B --prompts held-out.jsonl
    """
    try:
        resolved = _resolve(base)
        with _adapter_folder(source, url, api_key, local=local) as adapter:
            _warn_of_other_base(adapter, resolved)
            request = MergeRequest(
                base=resolved.path,
                adapter=adapter.resolve(),
                dtype=dtype,
                device=device,
                conversations=_conversations(prompts),
                max_tokens=max_tokens,
            )
            with Status(f"merging {source} into {resolved.name}, and comparing answers", console=stderr):
                report = merge_adapter(request, folder)
    except (AdapterError, BaseError, SettingsError, OSError) as error:
        fail(error)
    if report.untied:
        _print_differences(report.untied)
        fail(
            f"{len(report.untied)} of {report.answers} answers of the merged model are not the adapter's: nothing was "
            "written. A more precise --dtype may help."
        )
    result = report.model_dump() | {"folder": str(folder), "base": resolved.name}
    print_result(result, lambda _: _print_report(report, folder), as_json=as_json)


def _resolve(base: str | None) -> ResolvedBase:
    settings = load_settings(overrides={"base": base})
    return resolve_base(settings.base, settings.data_dir, revision=settings.base_revision, progress=_log)


@contextmanager
def _adapter_folder(source: str, url: str, api_key: str | None, *, local: bool) -> Iterator[Path]:
    """Give the folder of the adapter's files, which is removed afterwards if they had to be downloaded."""
    if local:
        if not (Path(source) / CONFIG_FILE).is_file():
            fail(f"{source} has no {CONFIG_FILE}; expected the folder of an adapter")
        yield Path(source)
        return
    client = ApiClient(url, api_key)
    name, digest = find_version(client, source)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "adapter"
        download_version(client, name, digest, folder)
        yield folder


def _warn_of_other_base(adapter: Path, base: ResolvedBase) -> None:
    try:
        declared = str(json.loads((adapter / CONFIG_FILE).read_bytes()).get("base_model_name_or_path") or "")
    except (ValueError, AttributeError):
        return
    if declared and Path(declared).name != Path(base.name).name:
        _log(f"the adapter was trained on {declared!r}, and the base is {base.name!r}: is it the same?")


def _conversations(prompts: Path | None) -> list[list[dict[str, Any]]]:
    if prompts is None:
        return [[{"role": "user", "content": question}] for question in QUESTIONS]
    found = (example["prompt"] for chat in iter_conversations(prompts) for example in islice(iter_examples(chat), 1))
    return list(islice(found, MAX_PROMPTS)) or fail(f"{prompts} has no prompts")


def _print_report(report: MergeReport, folder: Path) -> None:
    size = f"{report.parameters:,} parameters in {report.dtype}, {report.weights_bytes / 1e9:.2f} GB"
    equal = report.answers - len(report.differences)
    stdout.print(f"{folder}: {size}", markup=False)
    answers = f"{equal} of {report.answers} greedy answers ({report.tokens} tokens)"
    ties = f"; the others have a tie of at most {report.tie:g} nats, which rounding decides"
    checked = f"{answers} equal those of the adapter on the base{ties * bool(report.differences)}"
    stdout.print(checked, markup=False, soft_wrap=True)
    if report.differences:
        _print_differences(report.differences)


def _print_differences(differences: Sequence[Difference]) -> None:
    table = column_table("prompt", "token", "gap in nats", "adapter", "merged")
    for each in differences:
        cells = (str(each.conversation + 1), str(each.token + 1), f"{each.gap:.3f}", each.adapter, each.merged)
        table.add_row(*map(escape, cells))
    stdout.print(table)


def _log(line: str) -> None:
    stderr.print(line, markup=False)
